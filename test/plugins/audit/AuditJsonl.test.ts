/** The file of audit events: whole lines in one chain, whatever becomes of the process, the disk or the file before it. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import type { AuditJsonlOptions } from "../../../src/plugins/audit/jsonl/AuditJsonl.ts"
import { genesis, hashLine } from "../../../src/plugins/audit/jsonl/Chain.ts"
import { verify } from "../../../src/plugins/audit/jsonl/Verify.ts"
import type { AuditSink } from "../../../src/sdk/AuditSink.ts"
import { isJson, type Json, parsed } from "../../fixtures/Script.ts"
import { event, openSink } from "./AuditFile.ts"

let folder: string
let path: string
const children = new Set<ChildProcess>()

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "audit-jsonl-"))
  path = join(folder, "audit.jsonl")
})
afterEach(async () => {
  for (const child of children) child.kill("SIGKILL")
  children.clear()
  await rm(folder, { recursive: true })
})

const linesOf = (file: string): Effect.Effect<ReadonlyArray<Json & { readonly line: string }>> =>
  Effect.promise(async () => {
    const text = await readFile(file, "utf8")
    return text.split("\n").slice(0, -1).map((line) => {
      const value = parsed(line)
      assert.isTrue(isJson(value), line)
      const fields: Json = isJson(value) ? value : {}
      return Object.assign({ line }, fields)
    })
  })

/** The chain's files that are there, oldest first. */
const files = Effect.promise(async () => {
  const names = (await readdir(folder)).filter((name) => name.startsWith("audit.jsonl"))
  return names.map((name) => join(folder, name))
})

const whole = Effect.gen(function*() {
  const report = yield* verify(yield* files)
  assert.deepStrictEqual(report.problems, [])
  return report
})

const write = (sink: AuditSink, from: number, count = 1, filling = "") =>
  Effect.suspend(() => {
    const [first = event(from, filling), ...rest] = Array.from(
      { length: count },
      (_, index) => event(from + index, filling)
    )
    return sink.write([first, ...rest])
  })

/** Uses the file as one run of the gateway does. */
const run = <A, E>(options: Partial<AuditJsonlOptions>, use: (sink: AuditSink) => Effect.Effect<A, E>) =>
  Effect.scoped(Effect.flatMap(openSink({ path, ...options }), use))

describe("lines", () => {
  it.live("are JSON objects in snake_case, each with its number and the hash of the one before", () =>
    Effect.gen(function*() {
      yield* run({}, (sink) => Effect.andThen(write(sink, 1), write(sink, 2, 2)))
      const lines = yield* linesOf(path)
      assert.deepStrictEqual(JSON.parse(lines[0]?.line ?? ""), {
        seq: 1,
        prev: genesis.hash,
        at: 1_700_000_000_001,
        type: "request_completed",
        request_id: "req_1",
        tenant: "acme",
        user: "ann",
        key_id: "key-1",
        details: { model_used: "openai::gpt-4o", number: 1, streamed: true, filling: "" }
      })
      assert.deepStrictEqual(lines.map(({ seq }) => seq), [1, 2, 3])
      assert.strictEqual(lines[1]?.prev, hashLine(lines[0]?.line ?? ""))
      assert.strictEqual((yield* whole).head?.hash, hashLine(lines[2]?.line ?? ""))
    }))

  it.live("go on with the chain after a restart, in a directory that is made where it is missing", () =>
    Effect.gen(function*() {
      path = join(folder, "logs", "of", "today", "audit.jsonl")
      for (let number = 0; number < 3; number++) yield* run({}, (sink) => write(sink, number))
      assert.deepStrictEqual((yield* linesOf(path)).map(({ seq }) => seq), [1, 2, 3])
      assert.deepStrictEqual((yield* verify([path])).problems, [])
      assert.strictEqual((yield* Effect.promise(() => stat(path))).mode & 0o777, 0o600)
    }))

  it.live("are written one batch after the other, however many come at once", () =>
    Effect.gen(function*() {
      yield* run({}, (sink) =>
        Effect.forEach(
          Array.from({ length: 50 }, (_, index) => index),
          (index) => write(sink, index * 10, 10),
          { concurrency: "unbounded", discard: true }
        ))
      assert.strictEqual((yield* whole).lines, 500)
    }))

  it.live("of a write that was interrupted are all there", () =>
    Effect.gen(function*() {
      yield* run({}, (sink) =>
        Effect.gen(function*() {
          const writing = yield* Effect.forkChild(write(sink, 0, 100), { startImmediately: true })
          yield* Fiber.interrupt(writing)
          yield* write(sink, 100)
        }))
      assert.strictEqual((yield* whole).lines, 101)
    }))
})

describe("a line that was torn", () => {
  for (
    const [what, before, tail] of [
      ["after others", 3, "{\"seq\":4,\"prev\":\"abc"],
      ["as the only one", 0, "{\"seq\":1,"],
      ["into zeros, as some file systems leave it", 2, "\0".repeat(200_000)]
    ] as const
  ) {
    it.live(`${what} is dropped, and the chain says how much`, () =>
      Effect.gen(function*() {
        yield* run({}, (sink) => before === 0 ? Effect.void : write(sink, 1, before))
        yield* Effect.promise(() => appendFile(path, tail))
        assert.strictEqual((yield* verify([path])).problems[0]?.kind, "torn")
        yield* run({}, (sink) => write(sink, 9))
        const lines = yield* linesOf(path)
        assert.deepStrictEqual(lines.map(({ seq }) => seq), Array.from({ length: before + 2 }, (_, index) => index + 1))
        assert.strictEqual(lines[before]?.type, "recovered")
        assert.deepStrictEqual(lines[before]?.details, { dropped_bytes: tail.length })
        yield* whole
      }))
  }

  it.live("is not guessed at where a whole line is none of a chain: the start is refused", () =>
    Effect.gen(function*() {
      yield* run({}, (sink) => write(sink, 1, 2))
      yield* Effect.promise(() => appendFile(path, "somebody wrote this\n"))
      const error = yield* Effect.flip(run({}, () => Effect.void))
      assert.include(error.message, path)
      assert.include(error.message, "audit verify")
      assert.strictEqual((yield* verify([path])).problems[0]?.line, 3)
    }))
})

describe("rotation", () => {
  it.live("keeps the chain across files, and across restarts", () =>
    Effect.gen(function*() {
      for (let start = 0; start < 4; start++) {
        yield* run({ maxBytes: 2_000 }, (sink) =>
          Effect.forEach(
            Array.from({ length: 10 }, (_, index) => start * 10 + index),
            (number) => write(sink, number),
            { discard: true }
          ))
      }
      const all = yield* files
      assert.isAtLeast(all.length, 5)
      for (const file of all) assert.isAtMost((yield* Effect.promise(() => stat(file))).size, 2_000)
      const report = yield* whole
      assert.strictEqual(report.lines, 40)
      // The rotated files are numbered from the newest.
      const [newest] = yield* linesOf(`${path}.1`)
      const [oldest] = yield* linesOf(`${path}.${all.length - 1}`)
      assert.strictEqual(oldest?.seq, 1)
      assert.isAbove(Number(newest?.seq), 20)
      const current = yield* linesOf(path)
      const previous = yield* linesOf(`${path}.1`)
      assert.strictEqual(current[0]?.prev, hashLine(previous.at(-1)?.line ?? ""))
    }))

  it.live("deletes files beyond those to be kept, and the chain tells so: it is whole without them", () =>
    Effect.gen(function*() {
      yield* run({ maxBytes: 2_000, keep: 2 }, (sink) =>
        Effect.forEach(
          Array.from({ length: 60 }, (_, index) => index),
          (number) => write(sink, number),
          { discard: true }
        ))
      assert.lengthOf(yield* files, 3)
      const report = yield* whole
      assert.isAbove(report.first ?? 0, 30)
      // But not without another one.
      yield* Effect.promise(() => rm(`${path}.2`))
      assert.strictEqual((yield* verify(yield* files)).problems[0]?.kind, "missing")
    }))

  it.live("that was cut off at any step is made good", () =>
    Effect.gen(function*() {
      yield* run({ maxBytes: 2_000 }, (sink) =>
        Effect.forEach(
          Array.from({ length: 20 }, (_, i) => i),
          (number) => write(sink, number),
          { discard: true }
        ))
      const before = yield* whole
      // Put away, and the new file not begun.
      yield* Effect.promise(async () => {
        await writeFile(`${path}.99`, await readFile(`${path}.2`))
        await rm(`${path}.2`)
        await writeFile(`${path}.2`, await readFile(`${path}.1`))
        await writeFile(`${path}.1`, await readFile(path))
        await writeFile(`${path}.3`, await readFile(`${path}.99`))
        await rm(`${path}.99`)
        await rm(path)
      })
      yield* run({ maxBytes: 2_000 }, (sink) => write(sink, 20))
      assert.strictEqual((yield* whole).lines, before.lines + 1)
    }))
})

describe("a file that cannot be used", () => {
  it.live("is refused while another process has it, by that one's id, and free as soon as it is gone", () =>
    Effect.gen(function*() {
      const child = yield* startWriter(["0", "1", "0"])
      yield* child.said(1)
      const error = yield* Effect.flip(run({}, () => Effect.void))
      assert.strictEqual(error._tag, "AuditFileError")
      assert.include(error.message, `process ${child.process.pid} `)
      yield* child.kill
      yield* run({}, (sink) => write(sink, 0))
      yield* whole
    }))

  it.live("is refused to a second use in one process, also by another name, and free after the first", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const sink = yield* Scope.provide(openSink({ path }), scope)
      yield* write(sink, 0)
      const link = join(folder, "linked")
      yield* Effect.promise(() => symlink(folder, link))
      for (const other of [path, join(link, "audit.jsonl"), join(folder, ".", "x", "..", "audit.jsonl")]) {
        const error = yield* Effect.flip(run({ path: other }, () => Effect.void))
        assert.include(error.message, `process ${process.pid} `)
      }
      yield* write(sink, 1)
      yield* Scope.close(scope, Exit.void)
      yield* run({}, (sink) => write(sink, 2))
      assert.strictEqual((yield* whole).lines, 3)
    }))

  it.live("is refused where it is none, or where its directory cannot be", () =>
    Effect.gen(function*() {
      yield* Effect.promise(() => mkdir(path))
      assert.include((yield* Effect.flip(run({}, () => Effect.void))).message, "regular file")
      yield* Effect.promise(() => writeFile(join(folder, "file"), ""))
      const inside = join(folder, "file", "audit.jsonl")
      const error = yield* Effect.flip(run({ path: inside }, () => Effect.void))
      assert.include(error.message, "audit.jsonl")
      assert.match(error.message, /ENOTDIR|EEXIST/)
    }))
})

describe("a disk that is full", () => {
  it.live("fails the write, leaves nothing of it, and lets the next one through that fits", () =>
    Effect.gen(function*() {
      // The limit of a file's size stands for the disk: writes are cut short, and then fail.
      const child = yield* startWriter(["0", "20", "100"], "ulimit -f 16; exec \"$0\" \"$@\"")
      yield* child.exit
      const said = child.lines()
      const failure = said.find((line) => /\D/.test(line))
      assert.match(failure ?? "", /EFBIG|ENOSPC/)
      assert.match(said.at(-1) ?? "", /^\d+$/, "the single event was written")
      const report = yield* whole
      assert.strictEqual(report.lines, Number(said.at(-1)))
      assert.isAbove(report.lines, 20)
      assert.strictEqual(report.lines % 20, 1)
    }))

  it.live("at the start refuses the file", () =>
    Effect.gen(function*() {
      const child = yield* startWriter(["0", "1", "0"], "ulimit -f 0; exec \"$0\" \"$@\"")
      assert.strictEqual(yield* child.exit, 1)
      assert.include(child.lines()[0], "cannot be used")
    }))
})

describe("kill -9 in the middle of heavy writing", () => {
  it.live("loses nothing that was confirmed, and the chain goes on", () =>
    Effect.gen(function*() {
      let next = 0
      for (let round = 0; round < 6; round++) {
        const child = yield* startWriter([String(next), "200", "2000", "3000000"])
        yield* child.said(3 + round * 2)
        yield* child.kill
        const confirmed = Number(child.lines().at(-1))
        const report = yield* verifyTorn
        assert.isAbove(confirmed, next)
        assert.isAtLeast(report.lines, confirmed - next)
        next = confirmed
      }
      yield* run({}, (sink) => write(sink, next))
      yield* whole
      const numbers = new Set<number>()
      for (const file of yield* files) {
        for (const { details } of yield* linesOf(file)) if (isJson(details)) numbers.add(Number(details["number"]))
      }
      for (let number = 0; number <= next; number++) assert.isTrue(numbers.has(number), `event ${number}`)
    }), 60_000)

  /** Right after the kill the last line may be torn, and nothing else may be wrong. */
  const verifyTorn = Effect.gen(function*() {
    const report = yield* verify(yield* files)
    assert.deepStrictEqual(report.problems.filter(({ kind }) => kind !== "torn"), [])
    return report
  })
})

const writer = fileURLToPath(new URL("AuditWriter.ts", import.meta.url))

const startWriter = (args: ReadonlyArray<string>, shell?: string) =>
  Effect.sync(() => {
    const command = [process.execPath, writer, path, ...args]
    const [program = "", ...rest] = shell === undefined ? command : ["sh", "-c", shell, ...command]
    const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] })
    children.add(child)
    const said: Array<string> = []
    let told = () => {}
    const reader = createInterface({ input: child.stdout }).on("line", (line) => {
      said.push(line)
      told()
    })
    let problem = ""
    child.stderr.on("data", (bytes: Buffer) => {
      problem += bytes.toString()
    })
    const gone = once(child, "exit")
    const read = once(reader, "close")
    return {
      process: child,
      lines: (): ReadonlyArray<string> => said,
      /** Waits until it has said so many lines. */
      said: (count: number) =>
        Effect.promise(() =>
          new Promise<void>((resolve, reject) => {
            told = () => {
              if (said.length >= count) resolve()
            }
            told()
            child.on("exit", () => reject(new Error(`it ended: ${problem}`)))
          })
        ),
      /** Waits until it ends; its exit code. */
      exit: Effect.promise(async () => {
        await Promise.all([gone, read])
        return child.exitCode
      }),
      kill: Effect.promise(async () => {
        child.kill("SIGKILL")
        await Promise.all([gone, read])
      })
    }
  })
