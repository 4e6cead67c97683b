/** Usage records as lines of JSON. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { fileURLToPath } from "node:url"
import * as UsageLogLines from "../../../src/plugins/usage/log/UsageLogLines.ts"
import * as UsageNoop from "../../../src/plugins/usage/noop/UsageNoop.ts"
import { type UsageRecord, UsageSinkRegistry } from "../../../src/sdk/UsageSink.ts"
import { isJson, type Json, parsed } from "../../fixtures/Script.ts"
import { hostile, record } from "./Records.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "usage-lines-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
)

const sink = Effect.map(UsageSinkRegistry, (registry) => registry.all()[0] ?? assert.fail("there is no sink"))
const write = (first: UsageRecord, ...rest: ReadonlyArray<UsageRecord>) =>
  Effect.flatMap(sink, (sink) => sink.write([first, ...rest]))
const into = (file: string) =>
  Effect.provide(UsageLogLines.layer({ path: file }).pipe(Layer.provideMerge(UsageSinkRegistry.layer)))

const linesOf = (text: string): ReadonlyArray<Json> => {
  assert.isTrue(text.endsWith("\n"))
  return text.slice(0, -1).split("\n").map((line) => {
    const json = parsed(line)
    return isJson(json) ? json : assert.fail(line)
  })
}

describe("lines in a file", () => {
  it.effect("hold all that a record does, in snake_case, and nothing that it does not", () =>
    Effect.gen(function*() {
      const file = path.join(yield* folder, "usage.jsonl")
      const full = record({
        id: "r1#2",
        kind: "attempt",
        user: "ann",
        keyId: "k1",
        tags: ["red"],
        conversationId: "c1",
        usage: { inputTokens: 1, outputTokens: 2, cacheWrite1hTokens: 3, reasoningTokens: 1, costEstimate: 5 },
        estimatedBecause: "hedge_lost",
        errorCode: "provider_timeout",
        outcome: "failed"
      })
      const { costNanoUsd: _, finishReason: __, firstTokenMs: ___, priceId: ____, ...bare } = record({ id: "r2" })
      yield* write(full, bare).pipe(into(file))
      assert.deepStrictEqual(linesOf(readFileSync(file, "utf8")), [
        {
          type: "usage",
          id: "r1#2",
          request_id: "req_r1#2",
          kind: "attempt",
          tenant: "acme",
          user: "ann",
          key_id: "k1",
          tags: ["red"],
          conversation_id: "c1",
          operation: "chat",
          streamed: false,
          model_asked: "openai::gpt-4o",
          model_used: "openai::gpt-4o",
          provider: "openai",
          attempts: 1,
          usage: { input_tokens: 1, output_tokens: 2, cache_write_1h_tokens: 3, reasoning_tokens: 1 },
          estimated_because: "hedge_lost",
          cost_usd: 0.000075,
          cost_nano_usd: 75_000,
          price_id: "catalogue:openai/gpt-4o",
          started_at: "2026-05-04T00:00:00.000Z",
          duration_ms: 12.5,
          first_token_ms: 3.25,
          overhead_ms: 0.5,
          outcome: "failed",
          error_code: "provider_timeout",
          finish_reason: "stop"
        },
        {
          type: "usage",
          id: "r2",
          request_id: "req_r2",
          kind: "request",
          tenant: "acme",
          tags: [],
          operation: "chat",
          streamed: false,
          model_asked: "openai::gpt-4o",
          model_used: "openai::gpt-4o",
          provider: "openai",
          attempts: 1,
          usage: { input_tokens: 10, output_tokens: 5 },
          started_at: "2026-05-04T00:00:00.000Z",
          duration_ms: 12.5,
          overhead_ms: 0.5,
          outcome: "completed"
        }
      ])
      assert.strictEqual(statSync(file).mode & 0o777, 0o600)
    }))

  it.effect("are one each, whatever the text in them", () =>
    Effect.gen(function*() {
      const file = path.join(yield* folder, "usage.jsonl")
      yield* Effect.forEach(
        hostile,
        (text) => write(record({ id: text, tenant: text, tags: [text] })),
        { concurrency: "unbounded" }
      ).pipe(into(file))
      const lines = linesOf(readFileSync(file, "utf8"))
      assert.sameMembers(lines.map(({ tenant }) => tenant), hostile)
    }))

  it.effect("are added to what is there", () =>
    Effect.gen(function*() {
      const file = path.join(yield* folder, "usage.jsonl")
      writeFileSync(file, "{\"id\":\"before\"}\n")
      yield* write(record({ id: "a" })).pipe(into(file))
      yield* write(record({ id: "b" })).pipe(into(file))
      assert.deepStrictEqual(linesOf(readFileSync(file, "utf8")).map(({ id }) => id), ["before", "a", "b"])
    }))

  it.effect("are written once the file can be, and refused without its path until then", () =>
    Effect.gen(function*() {
      const there = yield* folder
      const file = path.join(there, "usage.jsonl")
      mkdirSync(file)
      yield* Effect.gen(function*() {
        const error = yield* Effect.flip(write(record({ id: "a" })))
        assert.strictEqual(error.message, "the lines could not be written (EISDIR)")
        rmdirSync(file)
        yield* write(record({ id: "a" }))
      }).pipe(into(file))
      assert.deepStrictEqual(linesOf(readFileSync(file, "utf8")).map(({ id }) => id), ["a"])
    }))
})

/** A process that writes two batches to its standard output and tells on standard error how that went. */
const script = `
  import { Effect, Exit, Layer } from "effect"
  import * as UsageLogLines from "./src/plugins/usage/log/UsageLogLines.ts"
  import { UsageSinkRegistry } from "./src/sdk/UsageSink.ts"
  import { record } from "./test/plugins/usage/Records.ts"
  const program = Effect.gen(function*() {
    const [sink] = (yield* UsageSinkRegistry).all()
    const first = yield* Effect.exit(sink.write([record({ id: "a" }), record({ id: "b" })]))
    const second = yield* Effect.exit(sink.write([record({ id: "c" })]))
    process.stderr.write([first, second].map((exit) => Exit.isSuccess(exit) ? "ok" : "failed").join(" "))
  })
  await Effect.runPromise(Effect.provide(program, Layer.provideMerge(UsageLogLines.layer(), UsageSinkRegistry.layer)))
`
const root = fileURLToPath(new URL("../../..", import.meta.url))

const run = (readsOutput: boolean) =>
  Effect.callback<{ readonly code: number | null; readonly output: string; readonly told: string }>((resume) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], { cwd: root })
    let output = ""
    let told = ""
    child.stderr.on("data", (chunk) => told += String(chunk))
    if (readsOutput) child.stdout.on("data", (chunk) => output += String(chunk))
    else child.stdout.destroy()
    child.on("close", (code) => resume(Effect.succeed({ code, output, told })))
  })

describe("lines on standard output", () => {
  it.live("are all there", () =>
    Effect.gen(function*() {
      const { output, told } = yield* run(true)
      assert.strictEqual(told, "ok ok")
      assert.deepStrictEqual(linesOf(output).map(({ id }) => id), ["a", "b", "c"])
    }))

  it.live("fail where nobody reads them, and leave the process alive", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* run(false), { code: 0, output: "", told: "failed failed" })
    }))
})

describe("the sink that keeps nothing", () => {
  it.effect("takes everything", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* sink).name, "noop")
      yield* write(record({ id: "a" }))
    }).pipe(Effect.provide(UsageNoop.layer.pipe(Layer.provideMerge(UsageSinkRegistry.layer)))))
})
