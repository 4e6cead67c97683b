/** `llm-gateway audit verify`: what it prints, and what it ends with. */
import { NodeServices } from "@effect/platform-node"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { CliError, Command } from "effect/cli"
import { TestConsole } from "effect/testing"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { auditCommand } from "../../src/config/AuditCommand.ts"
import { event, openSink } from "../plugins/audit/AuditFile.ts"

let folder = ""
let path = ""
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "audit-command-"))
  path = join(folder, "audit.jsonl")
})
afterAll(() => rm(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const exit = yield* Effect.exit(Command.runWith(auditCommand, { version: "0" })(["verify", ...args]))
    const said = (yield* TestConsole.logLines).map(String).join("\n")
    const failure = Exit.isFailure(exit)
      ? exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
      : undefined
    return { said, failure: CliError.isCliError(failure) ? failure.message : undefined, failed: Exit.isFailure(exit) }
  }).pipe(Effect.provide(NodeServices.layer))

const write = Effect.gen(function*() {
  const sink = yield* openSink({ path, maxBytes: 1_000 })
  for (let number = 0; number < 9; number++) yield* sink.write([event(number)])
}).pipe(Effect.scoped)

describe("verify", () => {
  it.effect("says that a chain is whole, and what its head is; then where it is broken", () =>
    Effect.gen(function*() {
      yield* write
      const files = [path, `${path}.1`, `${path}.2`]
      const good = yield* run(...files)
      assert.isFalse(good.failed, good.said)
      const head = /head ([0-9a-f]{64})/.exec(good.said)?.[1] ?? ""
      assert.include(good.said, "9 lines, 1 to 9")

      assert.isFalse((yield* run(...files, "--head", head, "--seq", "9")).failed)
      const truncated = yield* run(...files, "--head", "0".repeat(64))
      assert.isTrue(truncated.failed)
      assert.include(truncated.said, "truncated")

      const content = yield* Effect.promise(() => readFile(`${path}.1`, "utf8"))
      yield* Effect.promise(() => writeFile(`${path}.1`, content.replace("acme", "evil")))
      const bad = yield* run(...files)
      assert.isTrue(bad.failed)
      assert.include(bad.said, `${path}.1:1: changed`)
      assert.include(bad.failure, `broken at ${path}.1:1`)
    }))

  it.effect("says what it needs", () =>
    Effect.gen(function*() {
      assert.isTrue((yield* run()).failed)
      assert.include((yield* run(join(folder, "nowhere"))).failure, "nowhere")
      assert.include((yield* run(path, "--head", "abc")).failure, "64")
      assert.include((yield* run(path, "--seq", "3")).failure, "--head")
    }))
})
