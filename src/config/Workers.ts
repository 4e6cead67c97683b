/**
 * One address, several processes: what Node's cluster module lets `serve --workers` have. The first process serves nothing itself; it
 * starts the others, starts those anew that die, hands signals on, and carries figures from one to another.
 *
 * A worker is the service as it is without workers. What they share is in Redis and the database, as with replicas.
 */
import { Deferred, Effect, Layer, Schema } from "effect"
import cluster, { type Worker } from "node:cluster"
import { constants } from "node:os"
import { MetricsPeers, type WorkerFigures } from "../server/ops/MetricsPeers.ts"

/** The environment variable that tells a worker its name. */
export const workerVariable = "LLM_GATEWAY_WORKER"

/** Messages between the processes. They are this program's own, but a channel is no place for trust. */
const Message = Schema.Union([
  Schema.Struct({ type: Schema.Literal("up") }),
  /** A worker asks for the figures of the others. */
  Schema.Struct({ type: Schema.Literal("collect"), question: Schema.String }),
  /** A worker is asked for its own. */
  Schema.Struct({ type: Schema.Literal("render"), question: Schema.String }),
  Schema.Struct({ type: Schema.Literal("rendered"), question: Schema.String, text: Schema.String }),
  Schema.Struct({
    type: Schema.Literal("collected"),
    question: Schema.String,
    figures: Schema.Array(Schema.Struct({ worker: Schema.String, text: Schema.String }))
  })
])
type Message = typeof Message.Type
const isMessage = Schema.is(Message)

/** How long a worker that is asked for its figures may take, ms; one that is too slow is left out. */
const figuresPatience = 2000
/** Between the death of a worker and the start of another in its place, ms: at first, and at most. */
const firstPause = 500
const longestPause = 30_000
/** A worker that has lived for so long, ms, died of something new. */
const settledAfter = 60_000
/** How long workers may take beyond their time to drain, before they are killed, ms. */
const beyondDrain = 10_000
/** Two signals within this, ms, are one: from the terminal, and from npm a moment later. */
const sameSignal = 500

// ---------------------------------------------------------------------------------------------------------------------
// The first process
// ---------------------------------------------------------------------------------------------------------------------

/** What is carried between workers. */
class Exchange {
  /** Questions that are open: who asked, what came in, and who has still to answer. */
  readonly #open = new Map<
    string,
    {
      readonly asker: Worker
      readonly figures: Array<WorkerFigures>
      readonly missing: Set<string>
      timer: NodeJS.Timeout
    }
  >()
  readonly #names: ReadonlyMap<number, string>

  constructor(names: ReadonlyMap<number, string>) {
    this.#names = names
  }

  handle(from: Worker, message: Message): void {
    if (message.type === "collect") this.#collect(from, message.question)
    if (message.type === "rendered") this.#rendered(from, message.question, message.text)
  }

  #collect(asker: Worker, question: string): void {
    const id = `${asker.id}:${question}`
    const others = Object.values(cluster.workers ?? {}).flatMap((worker) =>
      worker === undefined || worker.id === asker.id || !worker.isConnected() ? [] : [worker]
    )
    const missing = new Set(others.map((worker) => String(worker.id)))
    const timer = setTimeout(() => this.#finish(id, question), figuresPatience)
    this.#open.set(id, { asker, figures: [], missing, timer })
    for (const worker of others) tell(worker, { type: "render", question: id })
    if (missing.size === 0) this.#finish(id, question)
  }

  #rendered(from: Worker, id: string, text: string): void {
    const open = this.#open.get(id)
    if (open === undefined || !open.missing.delete(String(from.id))) return
    open.figures.push({ worker: this.#names.get(from.id) ?? "", text })
    if (open.missing.size === 0) this.#finish(id, id.slice(id.indexOf(":") + 1))
  }

  #finish(id: string, question: string): void {
    const open = this.#open.get(id)
    if (open === undefined) return
    this.#open.delete(id)
    clearTimeout(open.timer)
    tell(open.asker, { type: "collected", question, figures: open.figures })
  }
}

const tell = (worker: Worker, message: Message): void => {
  // A worker that dies at this moment is told nothing, and needs nothing any more.
  if (worker.isConnected()) worker.send(message, () => undefined)
}

/** How workers are run. */
export interface WorkersOptions {
  readonly count: number
  /** How long each may take to drain, ms. */
  readonly drainTimeout: number
  /** Ends when the workers are to be told to stop, beside the signals. */
  readonly stop: Effect.Effect<void>
}

/**
 * Starts the workers and runs until all have ended, after SIGTERM or SIGINT. Gives the exit code: 0 where all of them ended
 * well. Where a worker ends before it has ever served while the service starts, that is the end of all.
 */
export const run = Effect.fnUntraced(
  function*({ count, drainTimeout, stop }: WorkersOptions): Effect.fn.Return<number> {
    const ended = Deferred.makeUnsafe<number>()
    const fork = Effect.runForkWith(yield* Effect.context())
    const names = new Map<number, string>()
    const startedAt = new Map<number, number>()
    const failures = new Map<string, number>()
    const exchange = new Exchange(names)
    const up = new Set<string>()
    const pauses = new Set<NodeJS.Timeout>()
    let worst = 0
    let toldAt: number | undefined

    const alive = () => Object.values(cluster.workers ?? {}).flatMap((worker) => worker === undefined ? [] : [worker])

    const start = (name: string): void => {
      const worker = cluster.fork({ [workerVariable]: name })
      names.set(worker.id, name)
      startedAt.set(worker.id, performance.now())
    }

    const endIfDone = (): void => {
      if (toldAt !== undefined && alive().length === 0) Deferred.doneUnsafe(ended, Effect.succeed(worst))
    }

    const stopAll = (signal: NodeJS.Signals): void => {
      const now = performance.now()
      if (toldAt !== undefined) {
        if (now - toldAt <= sameSignal) return
        for (const worker of alive()) worker.process.kill("SIGKILL")
        worst = 128 + constants.signals[signal]
        return
      }
      toldAt = now
      for (const pause of pauses) clearTimeout(pause)
      for (const worker of alive()) worker.process.kill("SIGTERM")
      setTimeout(() => {
        for (const worker of alive()) worker.process.kill("SIGKILL")
      }, drainTimeout + beyondDrain).unref()
      endIfDone()
    }

    cluster.on("message", (worker, message: unknown) => {
      if (!isMessage(message)) return
      const name = names.get(worker.id)
      if (message.type === "up" && name !== undefined) up.add(name)
      exchange.handle(worker, message)
    })
    cluster.on("exit", (worker, code, signal) => {
      const name = names.get(worker.id) ?? ""
      const lived = performance.now() - (startedAt.get(worker.id) ?? 0)
      names.delete(worker.id)
      startedAt.delete(worker.id)
      if (toldAt !== undefined) {
        if (code !== 0) worst ||= code ?? 1
        endIfDone()
        return
      }
      if (!up.has(name)) {
        // It has said itself what keeps it from serving, and the others would run into the same.
        worst = code === 0 ? 1 : code ?? 1
        stopAll("SIGTERM")
        return
      }
      const failed = lived > settledAfter ? 0 : failures.get(name) ?? 0
      failures.set(name, failed + 1)
      const pause = Math.min(longestPause, firstPause * 2 ** Math.min(failed, 10))
      fork(Effect.logError(`worker ${name} has ended (${signal ?? code}); another one starts in ${pause} ms`))
      const timer = setTimeout(() => {
        pauses.delete(timer)
        start(name)
      }, pause)
      pauses.add(timer)
    })
    process.on("SIGTERM", () => stopAll("SIGTERM"))
    process.on("SIGINT", () => stopAll("SIGINT"))
    process.on("SIGHUP", () => {
      if (process.stdout.isTTY) stopAll("SIGTERM")
      else for (const worker of alive()) worker.process.kill("SIGHUP")
    })

    for (let number = 1; number <= count; number++) start(String(number))
    yield* Effect.forkChild(Effect.andThen(stop, Effect.sync(() => stopAll("SIGTERM"))))
    return yield* Deferred.await(ended)
  }
)

// ---------------------------------------------------------------------------------------------------------------------
// A worker
// ---------------------------------------------------------------------------------------------------------------------

const say = (message: Message): void => {
  if (process.connected) process.send?.(message, () => undefined)
}

/** Tells the first process that this worker serves, and ends the worker as SIGTERM does when that process is gone. */
export const serves: Effect.Effect<void> = Effect.sync(() => {
  const { worker } = cluster
  if (worker === undefined) return
  worker.once("disconnect", () => {
    // Otherwise Node ends the process at once, in the middle of its requests.
    worker.exitedAfterDisconnect = true
    process.kill(process.pid, "SIGTERM")
  })
  say({ type: "up" })
})

/** The other workers, as `/metrics` asks for them. */
export const peers = (name: string): Layer.Layer<never> =>
  Layer.effect(
    MetricsPeers,
    Effect.gen(function*() {
      const fork = Effect.runForkWith(yield* Effect.context())
      const open = new Map<string, Deferred.Deferred<ReadonlyArray<WorkerFigures>>>()
      let rendering: Effect.Effect<string> | undefined
      let questions = 0
      const onMessage = (message: unknown): void => {
        if (!isMessage(message)) return
        if (message.type === "render" && rendering !== undefined) {
          const { question } = message
          fork(Effect.map(rendering, (text) => say({ type: "rendered", question, text })))
        }
        if (message.type === "collected") {
          const waiting = open.get(message.question)
          open.delete(message.question)
          if (waiting !== undefined) Deferred.doneUnsafe(waiting, Effect.succeed(message.figures))
        }
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("message", onMessage)),
        () => Effect.sync(() => process.off("message", onMessage))
      )
      return {
        answer: (render) =>
          Effect.sync(() => {
            rendering = render
          }),
        collect: (own) =>
          Effect.suspend(() => {
            const question = String(questions++)
            const answered = Deferred.makeUnsafe<ReadonlyArray<WorkerFigures>>()
            open.set(question, answered)
            say({ type: "collect", question })
            const itself: WorkerFigures = { worker: name, text: own }
            return Deferred.await(answered).pipe(
              Effect.timeoutOrElse({
                duration: 2 * figuresPatience,
                orElse: () => Effect.succeed<ReadonlyArray<WorkerFigures>>([])
              }),
              Effect.ensuring(Effect.sync(() => open.delete(question))),
              Effect.map((others) => [itself, ...others].sort((a, b) => Number(a.worker) - Number(b.worker)))
            )
          })
      }
    })
  )
