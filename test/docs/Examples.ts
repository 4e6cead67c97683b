/**
 * Runs the examples of a Markdown page, so that a page can only show what works. A comment on the line before a fenced
 * block says what the block is:
 *
 * - `<!-- file: path -->`: a file. One that the repository has must be the same; any other is written before the gateway
 *   starts (a `gateway.yaml` is then what it starts with).
 * - `<!-- output -->`: what the block before it prints, all of it. `<!-- output: some -->`: lines of it, in order.
 * - `<!-- skip: reason -->`: not run.
 *
 * Every other `bash` and `ts` block is run, and must have its output told, so that none passes unseen. The gateway runs
 * as a reader's does: `npm start` in a checkout (a folder of links), with no keys in the environment. Where the page says
 * `http://127.0.0.1:8080`, the running gateway's address is put.
 */
// @effect-diagnostics processEnv:off
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { createInterface } from "node:readline"
import { setImmediate } from "node:timers/promises"

/** The repository. */
export const root = path.resolve(import.meta.dirname, "../..")

/** Where the pages say that the gateway is. */
const documented = "http://127.0.0.1:8080"

/** What pages use whose gateway asks for a key. */
const administrator = "change-me"

// ---------------------------------------------------------------------------------------------------------------------
// Pages
// ---------------------------------------------------------------------------------------------------------------------

/** A fenced block. `line` is the line of its fence, counted from 1. */
export interface Block {
  readonly line: number
  readonly language: string
  /** The comment before it, without its brackets. */
  readonly marker: string
  readonly code: string
}

/** A block to run, and what it prints. */
export interface Example extends Block {
  readonly output: Block | undefined
}

/** What a page holds. */
export interface Page {
  readonly examples: ReadonlyArray<Example>
  /** By the path that their markers name. */
  readonly files: ReadonlyArray<{ readonly name: string; readonly block: Block }>
  /** Configurations, shown or used. */
  readonly yaml: ReadonlyArray<Block>
}

const blocksOf = (markdown: string): ReadonlyArray<Block> => {
  const blocks: Array<Block> = []
  let open:
    | { readonly line: number; readonly language: string; readonly marker: string; code: Array<string> }
    | undefined
  let marker = ""
  for (const [index, line] of markdown.split("\n").entries()) {
    if (open !== undefined) {
      if (line === "```") {
        blocks.push({ ...open, code: `${open.code.join("\n")}\n` })
        open = undefined
        marker = ""
      } else open.code.push(line)
    } else if (line.startsWith("```")) open = { line: index + 1, language: line.slice(3).trim(), marker, code: [] }
    else if (/^<!-- .* -->$/.test(line)) marker = line.slice(5, -4)
    else if (line !== "") marker = ""
  }
  return blocks
}

const isRun = (block: Block): boolean =>
  (block.language === "bash" || block.language === "ts") && !/^(?:skip|file|output)\b/.test(block.marker)

/** Reads a page. */
export const readPage = (file: string): Page => {
  const blocks = blocksOf(readFileSync(path.join(root, file), "utf8"))
  const files = blocks.flatMap((block) => {
    const name = /^file: (.+)$/.exec(block.marker)?.[1]
    return name === undefined ? [] : [{ name, block }]
  })
  const examples = blocks.flatMap((block, index) => {
    const next = blocks[index + 1]
    return isRun(block) ? [{ ...block, output: next?.marker.startsWith("output") === true ? next : undefined }] : []
  })
  return { examples, files, yaml: blocks.filter((block) => block.language === "yaml") }
}

// ---------------------------------------------------------------------------------------------------------------------
// Output
// ---------------------------------------------------------------------------------------------------------------------

/** Puts a fixed text in the place of what differs from run to run. */
export const settled = (text: string): string =>
  text
    .replaceAll("\r", "")
    .replace(/"(created|created_at)":\s*\d+/g, "\"$1\":0")
    .replace(/"created_at":\s*"[^"]*"/g, "\"created_at\":\"\"")
    .replace(/"(\w+_duration)":\s*\d+/g, "\"$1\":0")
    .replace(/req_[0-9a-f]{32}/g, "req_0")
    .replace(/sandbox-[0-9a-f]{16}/g, "sandbox-0")
    .replace(/(x-gateway-overhead-ms: )[\d.]+/g, "$10")
    .replace(/(x-gateway-attempts: .*;)\d+ms/g, "$10ms")
    .replace(/(x-ratelimit-(?:remaining|reset)-\w+: )\S+/g, "$10")
    .replace(/\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{3})?Z/g, "2026-01-01T00:00:00Z")
    .replace(/\|(hour|day|week|month)\|[^|]*\|/g, "|$1||")
    .replace(/file-[0-9a-f]{32}/g, "file-0")
    .replace(/lg_[\w-]{43}/g, "lg_0")
    .replace(/"ms":\s*\d+/g, "\"ms\":0")
    .replace(/"at":\s*\d{13}/g, "\"at\":0")
    .replace(/\b[0-9a-f]{64}\b/g, "0")
    .replace(/whole: \d+ lines, 1 to \d+/g, "whole: 1 lines, 1 to 1")
    .trim()

/** Lines of `wanted` that `printed` lacks, in order; empty where it has them all. */
export const missingLines = (wanted: string, printed: string): ReadonlyArray<string> => {
  const lines = settled(printed).split("\n").map((line) => line.trim())
  let from = 0
  return settled(wanted).split("\n").map((line) => line.trim()).filter((line) => {
    if (line === "") return false
    const at = lines.indexOf(line, from)
    if (at < 0) return true
    from = at + 1
    return false
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// A checkout
// ---------------------------------------------------------------------------------------------------------------------

/** A checkout of this repository with a gateway that runs in it. */
export interface Checkout {
  readonly url: string
  readonly dir: string
  /** What an example prints. Rejects where it ends with anything but 0. */
  readonly run: (example: Example) => Promise<string>
  /** What the type checker says of the page's TypeScript blocks; empty where it is content. */
  readonly typeErrors: (page: Page) => Promise<string>
  readonly close: () => Promise<void>
}

/** The environment without what would change the gateway's providers or address. */
const environment = (port: string): NodeJS.ProcessEnv => {
  const kept = Object.entries(process.env).filter(([name]) => !/^(?:OPENAI|ANTHROPIC|OLLAMA|GATEWAY)_/.test(name))
  // A port where nothing answers, so that an Ollama of this machine does not join in.
  return { ...Object.fromEntries(kept), PORT: port, OLLAMA_HOST: "127.0.0.1:9", npm_config_loglevel: "silent" }
}

const printed = (command: string, args: ReadonlyArray<string>, cwd: string): Promise<string> =>
  new Promise((resolve, reject) => {
    execFile(command, args, { cwd, env: environment("0"), timeout: 60_000 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${error.message}\n${stdout}\n${stderr}`))
    })
  })

const nameOf = (example: Block) => `example-${example.line}.ts`

/** Makes a checkout, writes the page's files into it, and starts the gateway there with `npm start`. */
export const openCheckout = async (page: Page): Promise<Checkout> => {
  const dir = mkdtempSync(path.join(tmpdir(), "llm-gateway-docs-"))
  for (const name of ["src", "test", "scratchpad", "docs", "node_modules"]) {
    symlinkSync(path.join(root, name), path.join(dir, name))
  }
  copyFileSync(path.join(root, "package.json"), path.join(dir, "package.json"))
  writeFileSync(
    path.join(dir, "tsconfig.json"),
    JSON.stringify({ extends: path.join(root, "tsconfig.json"), include: ["example-*.ts"] })
  )
  for (const { block, name } of page.files) {
    if (existsSync(path.join(root, name))) continue
    mkdirSync(path.dirname(path.join(dir, name)), { recursive: true })
    writeFileSync(path.join(dir, name), block.code)
  }
  // A group of its own, because npm does not hand signals on to what it starts.
  const server = spawn("npm", ["start"], {
    cwd: dir,
    env: environment("0"),
    detached: true,
    stdio: ["ignore", "pipe", "inherit"]
  })
  const close = async () => {
    if (server.exitCode === null && server.signalCode === null && server.pid !== undefined) {
      const gone = once(server, "exit")
      process.kill(-server.pid, "SIGTERM")
      await gone
    }
    rmSync(dir, { recursive: true, force: true })
  }
  const said: Array<string> = []
  let url: string | undefined
  for await (const line of createInterface({ input: server.stdout })) {
    said.push(line)
    url = /listens on (http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1]
    if (url !== undefined) break
  }
  server.stdout.resume()
  if (url === undefined) {
    await close()
    throw new Error(`npm start did not start a gateway:\n${said.join("\n")}`)
  }
  const at = url
  // The first discovery is on its way; costs and capabilities are there once it has answered.
  const models = () => fetch(`${at}/v1/models`, { headers: { authorization: `Bearer ${administrator}` } })
  while (!(await (await models()).text()).includes("sandbox::echo")) await setImmediate()
  const here = (code: string) => code.replaceAll(documented, at)
  const write = (example: Example) => writeFileSync(path.join(dir, nameOf(example)), here(example.code))
  return {
    url,
    dir,
    run: async (example) => {
      if (example.language === "bash") {
        return (await printed("bash", ["-euo", "pipefail", "-c", here(example.code)], dir)).replaceAll(at, documented)
      }
      write(example)
      return (await printed(process.execPath, [nameOf(example)], dir)).replaceAll(at, documented)
    },
    typeErrors: async ({ examples }) => {
      const typed = examples.filter((example) => example.language === "ts")
      if (typed.length === 0) return ""
      for (const example of typed) write(example)
      return printed(process.execPath, [path.join(root, "node_modules/typescript/bin/tsc"), "-p", "."], dir).then(
        () => "",
        (error: unknown) => String(error)
      )
    },
    close
  }
}
