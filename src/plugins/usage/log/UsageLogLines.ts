/**
 * The usage sink that writes JSON lines, one record each, for whoever collects the gateway's output. A record that had to
 * be written again stands there twice, under the same `id`; what the operating system has not yet written is lost with it,
 * so this sink is not durable.
 */
import { Effect, Layer, Predicate, Schema, type Scope, Semaphore } from "effect"
import { type FileHandle, open } from "node:fs/promises"
import { usd } from "../../../sdk/Pricing.ts"
import { Usage } from "../../../sdk/Usage.ts"
import { SinkError, type UsageRecord, UsageSinkRegistry } from "../../../sdk/UsageSink.ts"

/** Where the lines go. */
export interface UsageLogLinesOptions {
  /** A file that lines are appended to; absent: standard output. */
  readonly path?: string
}

const encodeUsage = Schema.encodeSync(Usage)

/** Times as ISO 8601; a time that is none, as a clock that went wrong tells it, stays a number. */
const time = (unixMs: number): string | number => {
  const date = new Date(unixMs)
  return Number.isNaN(date.getTime()) ? unixMs : date.toISOString()
}

/** A record as one line of JSON without its end. `type` tells it from other lines of the same output. */
export const line = (record: UsageRecord): string => {
  const { costEstimate: _, ...usage } = record.usage
  return JSON.stringify({
    type: "usage",
    id: record.id,
    request_id: record.requestId,
    kind: record.kind,
    tenant: record.tenant,
    user: record.user,
    key_id: record.keyId,
    tags: record.tags,
    conversation_id: record.conversationId,
    operation: record.operation,
    streamed: record.streamed,
    model_asked: record.modelAsked,
    model_used: record.modelUsed,
    provider: record.provider,
    attempts: record.attempts,
    usage: encodeUsage(usage),
    estimated_because: record.estimatedBecause,
    cost_usd: record.costNanoUsd === undefined ? undefined : usd(record.costNanoUsd),
    cost_nano_usd: record.costNanoUsd,
    price_id: record.priceId,
    started_at: time(record.startedAt),
    duration_ms: record.durationMs,
    first_token_ms: record.firstTokenMs,
    overhead_ms: record.overheadMs,
    outcome: record.outcome,
    error_code: record.errorCode,
    finish_reason: record.finishReason
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Where lines go
// ---------------------------------------------------------------------------------------------------------------------

const sinkName = "log"

/** Takes text until it is out of the process, so that a slow disk or reader slows the sink, and nothing else. */
type Output = (text: string) => Effect.Effect<void, SinkError>

const refused = (error: unknown): SinkError => {
  // The code alone: a message would quote the path.
  const code = Predicate.hasProperty(error, "code") ? String(error.code) : "unknown error"
  return new SinkError({ sink: sinkName, message: `the lines could not be written (${code})` })
}

const ignore = (): void => undefined

/** Node writes to a pipe or terminal synchronously on Linux, as it does for all other lines that the gateway logs. */
const toStdout: Effect.Effect<Output> = Effect.sync(() => {
  // Where its reader is gone, the stream tells every listener, and ends the process where there is none. It tells later
  // than it tells the writer, perhaps when this layer's scope is closed: so this one listener stays.
  if (!process.stdout.listeners("error").includes(ignore)) process.stdout.on("error", ignore)
  return (text) =>
    Effect.callback<void, SinkError>((resume) => {
      process.stdout.write(text, (error) => {
        resume(error === null || error === undefined ? Effect.void : Effect.fail(refused(error)))
      })
    })
})

/** Opens the file when there is something to write, and again after a failure. */
const toFile = (path: string): Effect.Effect<Output, never, Scope.Scope> =>
  Effect.gen(function*() {
    let file: FileHandle | undefined
    /** Whether the last write failed, and may have left half a line. */
    let torn = false
    const close = Effect.promise(async () => {
      const opened = file
      file = undefined
      // What could not be closed has nothing more to tell.
      await opened?.close().catch(ignore)
    })
    yield* Effect.addFinalizer(() => close)
    return (text) =>
      Effect.tryPromise({
        try: async () => {
          file ??= await open(path, "a", 0o600)
          await file.appendFile(torn ? `\n${text}` : text)
          torn = false
        },
        catch: (error) => {
          torn ||= file !== undefined
          return refused(error)
        }
      }).pipe(
        Effect.tapError(() => close),
        // A write cannot be called back, and what comes after it must find the file as it left it.
        Effect.uninterruptible
      )
  })

/** Registers the sink for as long as its scope lives. A file is made where there is none, readable by its owner alone. */
export const layer = (options: UsageLogLinesOptions = {}): Layer.Layer<never, never, UsageSinkRegistry> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const registry = yield* UsageSinkRegistry
    const output = yield* options.path === undefined ? toStdout : toFile(options.path)
    const oneByOne = yield* Semaphore.make(1)
    yield* registry.register({
      name: sinkName,
      write: (records) => oneByOne.withPermits(1)(output(records.map((record) => `${line(record)}\n`).join("")))
    })
  }))
