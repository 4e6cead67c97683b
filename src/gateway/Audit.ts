/**
 * The audit trail: each registered sink has a queue of its own, so that a slow or broken one holds up neither requests nor
 * the other sinks. What goes in is cleaned first: values come from callers, and an event must stay one line and one size
 * wherever it is written.
 */
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { type AuditEvent, type AuditSink, AuditSinkRegistry, AuditTrail } from "../sdk/AuditSink.ts"
import * as RecordQueue from "./RecordQueue.ts"

/** Characters of a value that are kept. */
const maxValue = 256
/** Details of an event that are kept. */
const maxDetails = 32
/** Encoding and hashing an event takes a sink some 8 µs: so many at a time do not stall the event loop. */
const maxBatch = 100

/** Most values are plain ASCII, which is cheaper to see than what Unicode calls a character. */
const plain = /^[ -~]*$/
/** Control and invisible formatting characters, halves of surrogate pairs, and what some readers take for a line's end. */
const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu

const clean = (text: string): string => {
  const cut = text.length > maxValue ? text.slice(0, maxValue) : text
  return plain.test(cut) ? cut : cut.replace(unprintable, "\uFFFD")
}

/** Types do not bind all code that emits: whatever is no plain value stays out, and so does what has no JSON. */
const cleanDetails = (details: AuditEvent["details"]): AuditEvent["details"] => {
  const kept: Record<string, string | number | boolean> = {}
  let count = 0
  for (const name in details) {
    if (count === maxDetails) break
    const value: unknown = details[name]
    if (typeof value === "string") kept[clean(name)] = clean(value)
    else if (typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value))) {
      kept[clean(name)] = value
    } else continue
    count++
  }
  return kept
}

const cleanEvent = (event: AuditEvent): AuditEvent => ({
  type: event.type,
  at: event.at,
  ...(event.requestId === undefined ? {} : { requestId: clean(event.requestId) }),
  ...(event.tenant === undefined ? {} : { tenant: clean(event.tenant) }),
  ...(event.user === undefined ? {} : { user: clean(event.user) }),
  ...(event.keyId === undefined ? {} : { keyId: clean(event.keyId) }),
  details: cleanDetails(event.details)
})

/** The queues behind the trail, for metrics and for whoever has to wait until all is written. */
export class AuditQueues extends Context.Service<AuditQueues, {
  /** The figures of each sink's queue, by the sink's name. */
  readonly stats: () => ReadonlyArray<{ readonly sink: string; readonly stats: RecordQueue.RecordQueueStats }>
  /** Waits until every sink has written what was emitted before. */
  readonly flush: Effect.Effect<void>
}>()("llm-gateway/gateway/AuditQueues") {}

/** A sink that is served. */
interface Served {
  readonly sink: AuditSink
  readonly queue: RecordQueue.RecordQueue<AuditEvent>
  readonly scope: Scope.Closeable
}

/** What may be set for the queues. */
export type AuditOptions = Omit<RecordQueue.RecordQueueOptions<AuditEvent>, "name" | "write">

const make = Effect.fnUntraced(function*(
  options: AuditOptions
): Effect.fn.Return<Context.Context<AuditTrail | AuditQueues>, never, AuditSinkRegistry | Scope.Scope> {
  const registry = yield* AuditSinkRegistry
  let served: ReadonlyArray<Served> = []

  const added = Effect.fnUntraced(function*(sink: AuditSink) {
    const scope = yield* Scope.make()
    const queue = yield* Scope.provide(
      RecordQueue.make<AuditEvent>({
        maxBatch,
        ...options,
        name: `audit sink "${sink.name}"`,
        // Looked up at each call, as the sink's own object may have been wrapped by then.
        write: (events) => sink.write(events)
      }),
      scope
    )
    served = [...served, { sink, queue, scope }]
  })

  /** From here on nothing more is put into the queue; what is in it is written. */
  const removed = (sink: AuditSink) =>
    Effect.suspend(() => {
      const leaving = served.find((one) => one.sink === sink)
      if (leaving === undefined) return Effect.void
      served = served.filter((one) => one !== leaving)
      return Scope.close(leaving.scope, Exit.void)
    })

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() =>
      Effect.forEach(served, ({ sink }) => removed(sink), { concurrency: "unbounded", discard: true })
    )
  )
  yield* registry.follow({ added, removed })

  return Context.make(AuditTrail, {
    isActive: () => served.length > 0,
    emit: (event) => {
      if (served.length === 0) return
      const cleaned = cleanEvent(event)
      for (const { queue } of served) queue.offer(cleaned)
    }
  }).pipe(Context.add(AuditQueues, {
    stats: () => served.map(({ queue, sink }) => ({ sink: sink.name, stats: queue.stats })),
    flush: Effect.suspend(() =>
      Effect.forEach(served, ({ queue }) => queue.flush, { concurrency: "unbounded", discard: true })
    )
  }))
})

/**
 * The trail into the registered sinks, with its queues set as given. Build it on top of the sinks' Layers: what is built
 * last ends first, and then all events are written before the sinks close.
 */
export const layerWith = (options: AuditOptions): Layer.Layer<AuditTrail | AuditQueues, never, AuditSinkRegistry> =>
  Layer.effectContext(make(options))

/** As `layerWith`, with the queues as they are by default. */
export const layer: Layer.Layer<AuditTrail | AuditQueues, never, AuditSinkRegistry> = layerWith({})
