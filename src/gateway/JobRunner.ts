/**
 * Runs jobs: takes as many as may run at the same time, renews their leases, and ends those that were cancelled or that
 * another replica has taken over. A job is ended under the fence of its taking, so that it ends once, and charged under its own id,
 * so that it is charged once, however many replicas have run it.
 */
import { Cause, Effect, Exit, FiberMap, PubSub, Queue, Schedule, type Scope } from "effect"
import type { Repeatable } from "../sdk/Caller.ts"
import { fail, type GatewayError, InternalError } from "../sdk/GatewayError.ts"
import type { JobFailure } from "../sdk/Job.ts"
import type { JobEnd, JobStore, TakenJob } from "../sdk/JobStore.ts"
import { logOf } from "../sdk/Log.ts"
import type { UsageLog } from "../sdk/UsageLog.ts"
import { describeDefect } from "./Defect.ts"
import type { JobKind } from "./JobOperations.ts"
import * as JobOperations from "./JobOperations.ts"

const told = logOf("jobs")

/** How jobs are run. */
export interface JobRunnerOptions {
  /** Jobs that run at the same time in this process. */
  readonly concurrency: number
  /** How long a job of a replica that has died waits for another one, ms. */
  readonly leaseMs: number
  /** How long a result is kept, ms. */
  readonly ttlMs: number
  /** How often jobs are looked for that nobody has told of, ms. */
  readonly pollMs: number
}

/** What runs. */
export interface JobRunner {
  /** Ends the run of a job that was cancelled, if this process has it: its provider's connection closes. */
  readonly cancel: (id: string) => Effect.Effect<void>
  /** Jobs that run now. */
  readonly running: () => number
  /** Jobs that have ended in this process, by how. */
  readonly ended: ReadonlyMap<string, number>
}

/** A job that runs here; a later taking by this very process, whose clock has jumped, only changes the fence. */
interface Run {
  fence: number
  /** What is kept of its work at a provider. */
  handle: string | undefined
}

/** Replicas that may die with a job before it is given up. */
const maxInterruptions = 1
/** The same for work that a provider goes on with by itself, and that is only asked after. */
const maxResumptions = 20
const sweepEvery = "1 minute"
/** Time between two renewals at most, ms; what was not told of a cancelled job is found out by then. */
const renewEvery = 5_000
/** Between two tries to write down how a job has ended. */
const finishAttempts = Schedule.spaced("1 second")

const failure = ({ code, message, status }: JobFailure): JobEnd => ({
  status: "failed",
  error: JSON.stringify({ code, message, status })
})

const interrupted = failure({
  code: "job_interrupted",
  message: "the gateway's replica ended while a provider worked on the job, which is not to be run again",
  status: 500
})

const mostInterruptions = ({ handle, onInterruption }: TakenJob): number => {
  if (handle !== undefined) return maxResumptions
  return onInterruption === "fail" ? 0 : maxInterruptions
}

/** Starts running jobs, for as long as the scope lives; what runs at its end is given back, or failed where it must not be run again. */
export const make = Effect.fnUntraced(function*(
  store: JobStore["Service"],
  kinds: Readonly<Record<TakenJob["operation"], JobKind>>,
  log: UsageLog["Service"] | undefined,
  { concurrency, leaseMs, pollMs, ttlMs }: JobRunnerOptions
): Effect.fn.Return<JobRunner, never, Scope.Scope> {
  const owner = crypto.randomUUID()
  const runs = new Map<string, Run>()
  const ended = new Map<string, number>()
  /** Ids of jobs whose runs were stopped because they are not this process's any more. */
  const stopped = new Set<string>()
  /** Of those, the ones that were cancelled. */
  const cancelled = new Set<string>()
  const wake = yield* Queue.sliding<void>(1)
  const fibers = yield* FiberMap.make<string>()
  let isEnding = false
  // Closed before the runs are.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isEnding = true
    })
  )

  const finish = (job: TakenJob, run: Run, end: JobEnd): Effect.Effect<void> =>
    Effect.suspend(() => store.finish(job.id, run.fence, end, ttlMs)).pipe(
      // Until the lease has ended nobody else takes the job, and after that the fence decides.
      Effect.retry({ schedule: finishAttempts, times: 60, while: () => !isEnding }),
      Effect.map((isMine) => {
        if (isMine) ended.set(end.status, (ended.get(end.status) ?? 0) + 1)
      }),
      Effect.catch(({ message }) => told.error(`the end of a job could not be kept: ${message}`, { job: job.id })),
      Effect.uninterruptible
    )

  /** Whether another replica may go on with it. */
  const isResumable = ({ onInterruption }: TakenJob, { handle }: Run): boolean =>
    onInterruption === "run_again" || (handle !== undefined && handle !== "")

  const isGivenBack = (job: TakenJob, run: Run): boolean => isEnding && !stopped.has(job.id) && isResumable(job, run)

  /** A job that was cancelled or taken over is not this process's to end; else the process ends, and others go on with the job. */
  const leave = (job: TakenJob, run: Run): Effect.Effect<void> => {
    if (stopped.delete(job.id)) return Effect.void
    return isResumable(job, run)
      ? Effect.ignore(store.giveBack(job.id, run.fence))
      : Effect.asVoid(Effect.ignore(store.finish(job.id, run.fence, interrupted, ttlMs)))
  }

  const failed = Effect.fnUntraced(function*(job: TakenJob, cause: Cause.Cause<GatewayError>) {
    const error = cause.reasons.find(Cause.isFailReason)?.error
    if (error !== undefined) return failure(error)
    const defect = cause.reasons.find(Cause.isDieReason)
    yield* told.error("a job failed with a defect", { job: job.id, ...describeDefect(defect?.defect) })
    return failure(
      fail(new InternalError({ message: `the gateway failed; ask its operator about job ${job.id}` }))
    )
  })

  /** Whoever had the job before may have charged for an answer that it could not keep any more. */
  const wasCharged = (job: TakenJob): Effect.Effect<boolean, GatewayError> =>
    log === undefined || job.fence === 1
      ? Effect.succeed(false)
      : Effect.map(log.costs([job.id]), (costs) => costs.has(job.id))

  const answer = (job: TakenJob, run: Run): Effect.Effect<string, GatewayError> =>
    Effect.flatMap(wasCharged(job), (isPaid) => {
      const repeatable: Repeatable = {
        recordId: job.id,
        // What is cut off because this process ends is made again elsewhere, and charged there.
        isCharged: () => !isPaid && !isGivenBack(job, run),
        isCancelled: () => cancelled.has(job.id),
        ...(job.handle === undefined ? {} : { handle: job.handle }),
        keep: (handle) =>
          Effect.tap(
            Effect.suspend(() => store.keepHandle(job.id, run.fence, handle)),
            () =>
              Effect.sync(() => {
                run.handle = handle
              })
          )
      }
      return JobOperations.as(job.context, repeatable, kinds[job.operation].run(JSON.parse(job.request)))
    })

  const execute = Effect.fnUntraced(function*(job: TakenJob, run: Run) {
    if (job.interruptions > mostInterruptions(job) || job.handle === "") {
      return yield* finish(job, run, interrupted)
    }
    const exit = yield* Effect.exit(answer(job, run))
    if (Exit.isSuccess(exit)) return yield* finish(job, run, { status: "completed", result: exit.value })
    if (Cause.hasInterruptsOnly(exit.cause)) return yield* Effect.interrupt
    yield* finish(job, run, yield* failed(job, exit.cause))
  })

  const begin = Effect.fnUntraced(function*(job: TakenJob) {
    const known = runs.get(job.id)
    if (known !== undefined) {
      known.fence = job.fence
      return
    }
    const run: Run = { fence: job.fence, handle: job.handle }
    runs.set(job.id, run)
    yield* FiberMap.run(
      fibers,
      job.id,
      execute(job, run).pipe(
        Effect.onInterrupt(() => leave(job, run)),
        Effect.ensuring(Effect.sync(() => {
          runs.delete(job.id)
          stopped.delete(job.id)
          cancelled.delete(job.id)
          Queue.offerUnsafe(wake, undefined)
        }))
      )
    )
  })

  const stop = (id: string, isCancelled: boolean): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (!runs.has(id)) return Effect.void
      if (isCancelled) cancelled.add(id)
      stopped.add(id)
      return FiberMap.remove(fibers, id)
    })

  const takeMore = Effect.gen(function*() {
    const free = concurrency - runs.size
    if (free <= 0) return
    const jobs = yield* Effect.uninterruptible(
      Effect.tap(store.take(owner, free, leaseMs), (taken) => Effect.forEach(taken, begin, { discard: true }))
    )
    if (jobs.length > 0) Queue.offerUnsafe(wake, undefined)
  })

  const taking = Effect.gen(function*() {
    yield* Effect.ignore(takeMore)
    yield* Effect.timeoutOption(Queue.take(wake), pollMs)
  })

  /** Ends the runs of jobs that are not this process's any more: cancelled, or taken over. */
  const renewing = Effect.gen(function*() {
    const ids = Array.from(runs.keys())
    const held = yield* store.renew(owner, ids, leaseMs)
    for (const id of ids) {
      const run = runs.get(id)
      if (run !== undefined && !held.has(id)) yield* stop(id, false)
    }
  })

  const watching = Effect.gen(function*() {
    const changes = yield* store.changes
    while (true) {
      const { id, status } = yield* PubSub.take(changes)
      if (status === undefined) yield* Effect.ignore(renewing)
      if (status === undefined || status === "pending") Queue.offerUnsafe(wake, undefined)
      if (status === "cancelled") yield* stop(id, true)
    }
  })

  yield* Effect.forkScoped(Effect.scoped(watching))
  yield* Effect.forkScoped(
    Effect.forever(Effect.andThen(Effect.sleep(Math.min(renewEvery, leaseMs / 3)), Effect.ignore(renewing)))
  )
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.ignore(store.sweep), Effect.sleep(sweepEvery))))
  yield* Effect.forkScoped(Effect.forever(taking))
  return { cancel: (id) => stop(id, true), running: () => runs.size, ended }
})
