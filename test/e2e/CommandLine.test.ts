/** The command line as people start it: a process of its own, its exit code, and what stands on which of its outputs. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { isJson, parsed } from "../fixtures/Script.ts"

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))
const jit = import.meta.resolve("effect/schema/SchemaJITCompiler/enable")
const secret = "sk-live-do-not-print"

let folder: string
const children = new Set<ChildProcess>()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "command-line-"))
})
afterAll(() => {
  for (const child of children) child.kill("SIGKILL")
  children.clear()
})
afterAll(() => rm(folder, { recursive: true }))

type Environment = Readonly<Record<string, string>>

/** Nothing of this process's own environment goes along; an Ollama on this machine must not be found. */
const start = (args: ReadonlyArray<string>, environment: Environment = {}): ChildProcess => {
  const child = spawn(process.execPath, ["--import", jit, main, ...args], {
    cwd: folder,
    env: { OLLAMA_HOST: "127.0.0.1:1", ...environment },
    stdio: ["ignore", "pipe", "pipe"]
  })
  children.add(child)
  return child
}

interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

const collect = (child: ChildProcess) => {
  const said = { out: "", err: "" }
  child.stdout?.on("data", (bytes: Buffer) => {
    said.out += bytes.toString("utf8")
  })
  child.stderr?.on("data", (bytes: Buffer) => {
    said.err += bytes.toString("utf8")
  })
  return said
}

const run = async (args: ReadonlyArray<string>, environment?: Environment): Promise<Ended> => {
  const child = start(args, environment)
  const said = collect(child)
  await once(child, "close")
  assert.notInclude(said.out + said.err, secret)
  return { code: child.exitCode, ...said }
}

const file = async (name: string, yaml: string): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, yaml)
  return path
}

interface Serving {
  readonly child: ChildProcess
  readonly url: string
  /** What it has printed so far, on both outputs. */
  readonly said: () => string
  /** Tells it to stop, and gives its exit code. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<number | null>
}

/** Starts the service and waits until it says where it listens. */
const serve = async (args: ReadonlyArray<string>, environment?: Environment): Promise<Serving> => {
  const child = start(["serve", ...args], environment)
  const { stdout } = child
  if (stdout === null) throw new Error("no standard output")
  const said = collect(child)
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: stdout }).on("line", (line) => {
      const found = /listens on (http:\/\/[^" ]+)/.exec(line)?.[1]
      if (found !== undefined) resolve(found)
    })
    child.on("exit", (code) => reject(new Error(`it ended with ${code}: ${said.out}${said.err}`)))
  })
  return {
    child,
    url,
    said: () => said.out + said.err,
    stop: async (signal = "SIGTERM") => {
      const closed = once(child, "close")
      child.kill(signal)
      await closed
      return child.exitCode
    }
  }
}

const post = (url: string, body: unknown) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body)
  })

const ask = (content: string, more: Readonly<Record<string, unknown>> = {}) => ({
  model: "sandbox::echo",
  messages: [{ role: "user", content }],
  ...more
})

describe.concurrent("check", () => {
  it("a good file: exit code 0, and what it holds", async () => {
    const path = await file(
      "good.yaml",
      "providers:\n  sandbox: { type: sandbox }\nmodels:\n  - { id: \"sandbox::echo\" }\n"
    )
    const { code, err, out } = await run(["check", "--config", path])
    assert.strictEqual(code, 0, err)
    assert.include(out, "good.yaml: ok")
    assert.strictEqual(err, "")
  })

  it("a bad file: exit code 1, and each problem with its place on the standard error", async () => {
    const path = await file(
      "bad.yaml",
      `server: { prot: 1 }\nproviders:\n  a: { type: openai, api_key: ${secret} }\n  b: { type: nope }\n`
    )
    const { code, err, out } = await run(["check", "--config", path])
    assert.strictEqual(code, 1)
    assert.strictEqual(out, "")
    assert.match(err, /bad\.yaml:1: server\.prot: .*port/)
    assert.match(err, /bad\.yaml:4: providers\.b\.type: /)
  })

  it("a variable that is not set is named, and one that is set is not shown", async () => {
    const path = await file("variables.yaml", "providers:\n  a:\n    type: openai\n    api_key: ${SOME_KEY}\n")
    const missing = await run(["check", "-c", path])
    assert.strictEqual(missing.code, 1)
    assert.include(missing.err, "SOME_KEY")
    const set = await run(["check", "-c", path], { SOME_KEY: secret })
    assert.strictEqual(set.code, 0, set.err)
  })

  it("a file that is not there, or is no YAML: exit code 1 and a plain word", async () => {
    const missing = await run(["check", "--config", join(folder, "nowhere.yaml")])
    assert.strictEqual(missing.code, 1)
    assert.include(missing.err, "nowhere.yaml")
    assert.notMatch(missing.err, /\bat .*\.ts:\d+/, "no stack")
    const broken = await run(["check", "-c", await file("broken.yaml", "a: [1, 2\nb: {")])
    assert.strictEqual(broken.code, 1)
    assert.match(broken.err, /broken\.yaml:\d+: /)
  })

  it("no file: what the environment offers, without its keys", async () => {
    const { code, out } = await run(["check"], { OPENAI_API_KEY: secret })
    assert.strictEqual(code, 0)
    assert.include(out, "environment: ok")
  })

  it("a bad variable is named, without its value", async () => {
    const { code, err } = await run(["check"], { PORT: secret })
    assert.strictEqual(code, 1)
    assert.include(err, "PORT: ")
  })

  it("sections that do not act are told with their lines", async () => {
    const path = await file(
      "later.yaml",
      "providers:\n  sandbox: { type: sandbox }\nobservability:\n  traces: { sampling: 0.5 }\n"
    )
    const { code, out } = await run(["check", "-c", path])
    assert.strictEqual(code, 0)
    assert.match(out, /later\.yaml:4: observability\.traces: there is no observability\.otlp/)
  })
})

describe.concurrent("models and chat", () => {
  it("models lists what the providers have", async () => {
    const { code, out } = await run(["models"])
    assert.strictEqual(code, 0)
    assert.match(out, /^model\s+USD\/Mtok\s+context\s+capabilities/)
    assert.match(out, /^sandbox::echo\s+1\/2\s+128000\s+text_input/m)
  })

  it("models tells what a model is sold by that is not sold by the token", async () => {
    const path = await file(
      "sold.yaml",
      "providers:\n  s: { type: sandbox }\nmodels:\n  - { id: s::painter, prices: { image: { base: 0.04, variants: {} } } }\n" +
        "  - { id: s::speaker, prices: { character_mchar: 15 } }\n  - { id: s::hearer, prices: { input_audio_second: 0.0001 } }\n" +
        "  - { id: s::free, prices: { input_mtok: 0, output_mtok: 0 } }\n"
    )
    const { code, out } = await run(["models", "-c", path])
    assert.strictEqual(code, 0)
    for (
      const [model, price] of [["painter", "0.04/image"], ["speaker", "15/Mchar"], ["hearer", "0.0001/s"], [
        "free",
        "0/0"
      ]]
    ) {
      assert.match(out, new RegExp(`^s::${model}\\s+${price}\\s`, "m"))
    }
  })

  it("chat prints the answer and nothing else", async () => {
    const { code, err, out } = await run(["chat", "Hello there", "--model", "sandbox::echo"])
    assert.deepStrictEqual({ code, err, out }, { code: 0, err: "", out: "Hello there\n" })
  })

  it("chat --stream prints the same", async () => {
    const { code, err, out } = await run(["chat", "Hello there", "--model", "sandbox::echo", "--stream"])
    assert.deepStrictEqual({ code, err, out }, { code: 0, err: "", out: "Hello there\n" })
  })

  it("chat shows the calls of tools, and fails in plain words", async () => {
    const call = await run(["chat", "[[tool get_weather {\"city\":\"Paris\"}]]", "-m", "sandbox::echo"])
    assert.include(call.out + call.err, "get_weather")
    const unknown = await run(["chat", "Hello", "--model", "nowhere::m"])
    assert.strictEqual(unknown.code, 1)
    assert.strictEqual(unknown.out, "")
    assert.include(unknown.err, "model_not_found: ")
    assert.notMatch(unknown.err, /\bat .*\.ts:\d+/, "no stack")
    const broken = await run(["chat", "[[cut 1]] One two three", "--model", "sandbox::echo", "--stream"])
    assert.strictEqual(broken.code, 1)
    assert.include(broken.err, "provider_error: ")
  }, severalProcesses)

  it("an unknown command is told, with those that there are", async () => {
    const { code, err, out } = await run(["sreve"])
    assert.strictEqual(code, 1)
    assert.include(err + out, "sreve")
    assert.include(err + out, "serve")
  })

  it("a folder of schemas that cannot be used: every command says which file is wrong, without a stack", async () => {
    const schemas = join(folder, "broken-schemas")
    await mkdir(schemas)
    await writeFile(join(schemas, "broken.json"), "{")
    const path = await file(
      "schemas.yaml",
      `server: { port: 0 }\nproviders:\n  sandbox: { type: sandbox }\ntype_registry: { folder: ${
        JSON.stringify(schemas)
      } }\n`
    )
    for (const args of [["check"], ["serve"], ["models"], ["chat", "Hello", "-m", "sandbox::echo"]]) {
      const { code, err, out } = await run([...args, "-c", path])
      assert.strictEqual(code, 1, args[0])
      assert.include(err, "broken.json: it is not JSON")
      assert.notMatch(out + err, /\bat .*\.ts:\d+/, "no stack")
    }
  }, severalProcesses)

  it("--version and --help", async () => {
    const version = await run(["--version"])
    assert.strictEqual(version.code, 0)
    assert.match(version.out, /\d+\.\d+\.\d+/)
    const help = await run(["--help"])
    assert.strictEqual(help.code, 0)
    for (const command of ["serve", "check", "models", "chat"]) assert.include(help.out, command)
  })
})

/** Each start takes seconds where the machine has other work, too, ms. */
const severalProcesses = 60_000

/** A port that was free a moment ago, for a service that does not say which one it took. */
const freePort = async (): Promise<number> => {
  const taken = createServer().listen(0, "127.0.0.1")
  await once(taken, "listening")
  const address = taken.address()
  taken.close()
  await once(taken, "close")
  return typeof address === "object" && address !== null ? address.port : 0
}

describe("serve", () => {
  it("without any configuration: on loopback, with the sandbox, healthy and answering", async () => {
    const service = await serve([], { PORT: "0", OPENAI_API_KEY: secret })
    assert.match(service.url, /^http:\/\/127\.0\.0\.1:\d+$/)
    assert.strictEqual((await fetch(`${service.url}/health/live`)).status, 200)
    assert.strictEqual((await fetch(`${service.url}/health/ready`)).status, 200)
    const response = await post(service.url, ask("Hello"))
    assert.strictEqual(response.status, 200)
    assert.include(await response.text(), "Hello")
    assert.strictEqual(await service.stop("SIGINT"), 0)
    assert.notInclude(service.said(), secret)
    assert.include(service.said(), "sandbox")
  })

  it("its log is a JSON object a line, and holds no prompt", async () => {
    const service = await serve([], { PORT: "0" })
    await (await post(service.url, ask("SOME PROMPT WORDS"))).text()
    await (await post(service.url, ask("[[fail 500]] SOME PROMPT WORDS"))).text()
    assert.strictEqual(await service.stop(), 0)
    const lines = service.said().split("\n").filter((line) => line !== "")
    assert.isAbove(lines.length, 0)
    for (const line of lines) assert.isTrue(isJson(parsed(line)), line)
    assert.notInclude(service.said(), "PROMPT WORDS")
  })

  it("logs what its configuration asks for, and what is worse", async () => {
    const port = await freePort()
    const path = await file(
      "quiet.yaml",
      `server: { port: ${port} }\nproviders:\n  sandbox: { type: sandbox }\nobservability: { log_level: warn }\n`
    )
    const child = start(["serve", "-c", path])
    const said = collect(child)
    const isUp = () => fetch(`http://127.0.0.1:${port}/health/ready`).then(({ ok }) => ok, () => false)
    while (!(await isUp())) assert.isNull(child.exitCode, said.err)
    await file("quiet.yaml", "nonsense: 1\n")
    child.kill("SIGHUP")
    const closed = once(child, "close")
    while (!said.out.includes("not taken over")) await isUp()
    child.kill("SIGTERM")
    await closed
    assert.strictEqual(child.exitCode, 0)
    assert.notInclude(said.out, "listens on")
    assert.notInclude(said.out, "LLM Gateway stops")
  })

  it("has a line for each request where that is wanted, and tells of each module what it is told to", async () => {
    const port = await freePort()
    const path = await file(
      "lines.yaml",
      `server: { port: ${port} }\nproviders:\n  sandbox: { type: sandbox }\n` +
        "observability: { access_log: true, log_level: error, log_levels: { access: info } }\n"
    )
    const child = start(["serve", "-c", path])
    const said = collect(child)
    const isUp = () => fetch(`http://127.0.0.1:${port}/health/ready`).then(({ ok }) => ok, () => false)
    while (!(await isUp())) assert.isNull(child.exitCode, said.err)
    const answer = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-id": "the-request" },
      body: JSON.stringify({ model: "sandbox::echo", messages: [{ role: "user", content: "canaryPrompt" }] })
    })
    assert.strictEqual(answer.status, 200)
    child.kill("SIGTERM")
    await once(child, "close")
    const lines = said.out.trim().split("\n").filter((line) => line.startsWith("{"))
    assert.lengthOf(lines, 1, said.out)
    assert.notInclude(said.out, "canaryPrompt")
    const line: unknown = JSON.parse(lines[0] ?? "")
    if (!isJson(line) || !Array.isArray(line["message"])) return assert.fail(said.out)
    assert.strictEqual(line["message"][0], "request")
    assert.include(line["message"][1], {
      request_id: "the-request",
      operation: "chat",
      tenant: "default",
      model_used: "sandbox::echo",
      outcome: "completed",
      attempts: 1
    })
  })

  it("refuses to listen beyond loopback without keys, and says what to do", async () => {
    const path = await file(
      "open.yaml",
      "server: { host: 0.0.0.0, port: 0 }\nproviders:\n  sandbox: { type: sandbox }\n"
    )
    for (const command of ["serve", "check"]) {
      const { code, err } = await run([command, "-c", path])
      assert.strictEqual(code, 1)
      assert.include(err, "auth.mode")
      assert.include(err, "127.0.0.1")
    }
  })

  it("says at its start which sections do not act", async () => {
    const path = await file(
      "later-served.yaml",
      "server: { port: 0 }\nproviders:\n  sandbox: { type: sandbox }\nobservability:\n  traces: { sampling: 0.5 }\n"
    )
    const service = await serve(["-c", path])
    assert.match(service.said(), /later-served\.yaml:5: observability\.traces: there is no observability\.otlp/)
    assert.strictEqual(await service.stop(), 0)
  })

  it("a port in use: exit code 1 and a message that names it", async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve))
    const address = taken.address()
    if (address === null || typeof address === "string") assert.fail("no port")
    const { code, err, out } = await run(["serve"], { PORT: String(address.port) })
    assert.strictEqual(code, 1)
    assert.include(err, `127.0.0.1:${address.port}`)
    assert.include(err, "in use")
    assert.notMatch(out + err, /\bat .*\.ts:\d+/, "no stack")
    await new Promise((resolve) => taken.close(resolve))
  })

  it("told to stop while a stream runs: the stream is finished first, and nothing new is taken", async () => {
    const service = await serve([], { PORT: "0" })
    const response = await post(service.url, ask("[[tokens 30 at 30]]", { stream: true }))
    const reader = response.body?.getReader()
    const decoder = new TextDecoder()
    const first = await reader?.read()
    let text = decoder.decode(first?.value, { stream: true })
    assert.notInclude(text, "[DONE]")
    const stopped = service.stop()
    for (let read = await reader?.read(); read?.done === false; read = await reader?.read()) {
      text += decoder.decode(read.value, { stream: true })
    }
    assert.include(text, "\"finish_reason\":\"stop\"")
    assert.include(text, "data: [DONE]")
    assert.strictEqual(await stopped, 0)
    const refused = await post(service.url, ask("Hello")).then(() => "served", () => "refused")
    assert.strictEqual(refused, "refused")
  })

  it("told to stop while a stream does not end: it ends after the drain time all the same", async () => {
    const path = await file(
      "drain.yaml",
      "server: { port: 0, drain_timeout: 200ms }\nproviders:\n  sandbox: { type: sandbox }\n"
    )
    const service = await serve(["-c", path])
    const response = await post(service.url, ask("[[stall 1]] One two", { stream: true }))
    const reader = response.body?.getReader()
    await reader?.read()
    const started = performance.now()
    const rest = (async () => {
      let text = ""
      for (let read = await reader?.read(); read?.done === false; read = await reader?.read()) {
        text += new TextDecoder().decode(read.value)
      }
      return text
    })()
    const whole = post(service.url, ask("[[stall 1]] One two"))
    // Its turn comes after that of the request before it.
    await (await fetch(`${service.url}/health/live`)).text()
    assert.strictEqual(await service.stop(), 0)
    // It ends in its dialect's error, and not as if it were complete; what has no answer yet gets one.
    const text = await rest
    assert.include(text, "\"code\":\"overloaded\"")
    assert.notInclude(text, "[DONE]")
    assert.strictEqual((await whole).status, 503)
    assert.isBelow(performance.now() - started, 5_000)
  })

  it("told to stop again while it waits: it ends at once, and its exit code names the signal", async () => {
    const service = await serve([], { PORT: "0" })
    const response = await post(service.url, ask("[[stall 1]] One two", { stream: true }))
    await response.body?.getReader().read()
    const started = performance.now()
    const closed = once(service.child, "close")
    const again = setInterval(() => service.child.kill("SIGTERM"), 100)
    await closed
    clearInterval(again)
    assert.strictEqual(service.child.exitCode, 143)
    assert.isBelow(performance.now() - started, 5_000)
  })

  it("told to stop twice in one moment, as npm does it: what runs is finished", async () => {
    const service = await serve([], { PORT: "0" })
    const response = await post(service.url, ask("[[tokens 30 at 60]]", { stream: true }))
    service.child.kill("SIGINT")
    const stopped = service.stop("SIGINT")
    assert.include(await response.text(), "data: [DONE]")
    assert.strictEqual(await stopped, 0)
  })

  it("SIGHUP does not end it: it reads its configuration anew, and the log says so", async () => {
    const service = await serve([], { PORT: "0" })
    const told = new Promise<void>((resolve) =>
      service.child.stdout?.on("data", () => {
        if (service.said().includes("read anew")) resolve()
      })
    )
    service.child.kill("SIGHUP")
    await told
    assert.strictEqual((await post(service.url, ask("Hello"))).status, 200)
    assert.strictEqual(await service.stop(), 0)
  })

  it("whoever reads its log goes away: it goes on serving", async () => {
    const service = await serve([], { PORT: "0" })
    service.child.stdout?.destroy()
    // Each of these is a line that cannot be written.
    for (let signal = 0; signal < 3; signal++) service.child.kill("SIGHUP")
    for (let request = 0; request < 3; request++) {
      assert.strictEqual((await post(service.url, ask("Hello"))).status, 200)
    }
    assert.isNull(service.child.exitCode)
    assert.strictEqual(await service.stop(), 0)
  })

  it.skipIf(process.platform === "win32")("the shell in which npm started it is ended: it ends, too", async () => {
    // The second command keeps the shell from putting the service in its own place.
    const shell = spawn("sh", ["-c", `"$0" --import "$1" "$2" serve; exit $?`, process.execPath, jit, main], {
      cwd: folder,
      env: { OLLAMA_HOST: "127.0.0.1:1", PORT: "0", npm_lifecycle_event: "start" },
      stdio: ["ignore", "pipe", "pipe"]
    })
    children.add(shell)
    const said = collect(shell)
    await new Promise<void>((resolve) =>
      shell.stdout.on("data", () => {
        if (said.out.includes("listens on")) resolve()
      })
    )
    // The service holds the other end of this pipe until it ends.
    const ended = once(shell.stdout, "end")
    shell.kill("SIGTERM")
    await ended
    assert.include(said.out, "stops")
  })
})
