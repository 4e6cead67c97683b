/**
 * The main thread's side of a SQLite database that lives in a thread of its own. Requests made in the same tick travel in
 * one message, and are done in the order in which they were made.
 */
import { Worker } from "node:worker_threads"
import type { FromThread, OpenOptions, Reply, Request, ToThread } from "./SqliteMessages.ts"

/** How many requests the thread has at once. The others wait here, where they can still be taken back. */
const maxInFlight = 128
/** The thread's heap, MiB. A result that is larger ends the thread, not the process. */
const maxHeap = 512
/** How long the thread has for closing the database, ms. SQLite survives it when a thread is ended before. */
const closingTime = 10_000

/** A request to be made; setting `abandoned` takes it back where the thread does not have it yet. */
export interface Ticket {
  readonly request: Request
  /** Called with each of its answers, of which the last may be that the thread is gone. */
  readonly answered: (reply: Reply) => void
  abandoned: boolean
}

/** A database's thread. It keeps the process alive only while it has something to answer. */
export interface SqliteThread {
  readonly send: (ticket: Ticket) => void
  /** Whether a transaction was open after the last thing that the thread answered. */
  readonly inTransaction: () => boolean
  /** Why the thread is gone, or undefined while it lives. */
  readonly gone: () => string | undefined
  /** Closes the database and waits until the thread is gone; idempotent. */
  readonly end: () => Promise<void>
}

/** Beside this file, compiled or not as this file is: `src/*.ts` by type stripping, `dist/*.js` after a build. */
const entry = new URL(import.meta.url.endsWith(".ts") ? "SqliteWorker.ts" : "SqliteWorker.js", import.meta.url)

/**
 * The `code` of the answer to requests that the thread did not live to answer. What was asked for may have happened or not.
 */
export const threadGone = "THREAD_GONE"

/** Starts a thread. `opened` is told whether it could open the database; requests may be sent before that. */
export const start = (options: OpenOptions, opened: (reply: Reply) => void): SqliteThread => {
  const worker = new Worker(entry, {
    workerData: options,
    name: "sqlite",
    // Without the preloads of the main thread, that it has no use for.
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: maxHeap }
  })
  /** The requests that the thread has, oldest first, from `head` on. */
  let given: Array<Ticket> = [{
    request: ["rows", "", [], false, false],
    answered: (reply) => {
      if (reply[0] === "failed") crash = reply[1]
      opened(reply)
    },
    abandoned: false
  }]
  let head = 0
  let waiting: Array<Ticket> = []
  let waitingHead = 0
  let scheduled = false
  let inTransaction = false
  let gone: string | undefined
  let crash: string | undefined

  const lost = (): Reply => ["failed", `the database's thread is gone: ${gone}`, threadGone, undefined]

  const isIdle = () => head === given.length && waitingHead === waiting.length

  const post = (message: ToThread) => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread is no window and takes no origin
    worker.postMessage(message)
  }

  const flush = (): void => {
    scheduled = false
    if (gone !== undefined) return
    const batch: Array<Request> = []
    while (given.length - head < maxInFlight) {
      const ticket = waiting[waitingHead]
      if (ticket === undefined) break
      waitingHead++
      if (ticket.abandoned) continue
      given.push(ticket)
      batch.push(ticket.request)
    }
    if (waitingHead === waiting.length) {
      waiting = []
      waitingHead = 0
    }
    if (batch.length > 0) post(batch)
    if (isIdle()) worker.unref()
  }

  const settle = (reply: Reply): void => {
    const ticket = given[head]
    if (ticket === undefined) return
    const isLast = reply[0] !== "rows" || !reply[3] || ticket.request[0] === "open" || ticket.request[0] === "pull"
    if (isLast) head++
    ticket.answered(reply)
  }

  worker.on("message", ([replies, open, waits]: FromThread) => {
    inTransaction = open
    for (const reply of replies) settle(reply)
    if (head > maxInFlight) {
      given = given.slice(head)
      head = 0
    }
    if (waits) setImmediate(post, "next")
    if (waitingHead < waiting.length && given.length - head <= maxInFlight / 2) flush()
    if (isIdle()) worker.unref()
  })
  worker.on("error", (cause) => {
    crash = cause instanceof Error ? cause.message : String(cause)
  })
  const exited = new Promise<void>((resolve) => {
    worker.once("exit", (code) => {
      gone = crash ?? `it ended with ${code}`
      inTransaction = false
      const left = [...given.slice(head), ...waiting.slice(waitingHead)]
      given = []
      head = 0
      waiting = []
      waitingHead = 0
      for (const { answered } of left) answered(lost())
      resolve()
    })
  })

  const send = (ticket: Ticket): void => {
    if (gone !== undefined) return queueMicrotask(() => ticket.answered(lost()))
    if (isIdle()) worker.ref()
    waiting.push(ticket)
    if (!scheduled) {
      scheduled = true
      queueMicrotask(flush)
    }
  }

  return {
    send,
    inTransaction: () => inTransaction,
    gone: () => gone,
    end: () => {
      send({ request: ["end"], answered: () => {}, abandoned: false })
      const late = setTimeout(() => void worker.terminate(), closingTime)
      return exited.finally(() => clearTimeout(late))
    }
  }
}
