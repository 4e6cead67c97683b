/** What the process says of itself: its memory, its CPU, and how late its event loop is. */
import { type Context, Effect, Metric } from "effect"
import { monitorEventLoopDelay } from "node:perf_hooks"

const nanosPerSecond = 1e9
const microsPerSecond = 1e6
/** How often the event loop is looked at, ms. */
const resolution = 20

let delays: ReturnType<typeof monitorEventLoopDelay> | undefined

/** Watched from the first scrape on; a process whose figures nobody reads has no timer for them. */
const eventLoopDelays = (): ReturnType<typeof monitorEventLoopDelay> => {
  if (delays === undefined) {
    delays = monitorEventLoopDelay({ resolution })
    delays.enable()
  }
  return delays
}

const gauge = (into: Context.Context<never>, name: string, description: string, value: number): void =>
  Metric.gauge(name, { description }).updateUnsafe(value, into)

/** Writes the figures as they are now. Names are those that Prometheus' own client libraries use, where they have any. */
export const into = (figures: Context.Context<never>): Effect.Effect<void> =>
  Effect.sync(() => {
    const { heapTotal, heapUsed, rss } = process.memoryUsage()
    gauge(figures, "process_resident_memory_bytes", "Resident memory.", rss)
    gauge(figures, "nodejs_heap_size_total_bytes", "Heap of V8.", heapTotal)
    gauge(figures, "nodejs_heap_size_used_bytes", "Heap of V8 that is in use.", heapUsed)
    const { system, user } = process.cpuUsage()
    Metric.counter("process_cpu_seconds_total", { description: "CPU time used.", incremental: true })
      .updateUnsafe((user + system) / microsPerSecond, figures)
    gauge(figures, "process_uptime_seconds", "Time since the process began.", process.uptime())
    gauge(figures, "nodejs_active_resources", "Sockets, timers and the like.", process.getActiveResourcesInfo().length)
    const late = eventLoopDelays()
    if (late.count === 0) return
    // The histogram counts the whole interval between two looks, not only what it is late by.
    const beyond = (nanos: number) => Math.max(0, nanos / nanosPerSecond - resolution / 1000)
    gauge(
      figures,
      "nodejs_eventloop_lag_p50_seconds",
      "Half of all delays of the event loop since the last scrape.",
      beyond(late.percentile(50))
    )
    gauge(figures, "nodejs_eventloop_lag_p99_seconds", "All but one in a hundred of them.", beyond(late.percentile(99)))
    gauge(figures, "nodejs_eventloop_lag_max_seconds", "The longest of them.", beyond(late.max))
    late.reset()
  })
