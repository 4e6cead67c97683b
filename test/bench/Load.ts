/** Load on a server that runs in another process, and what it costs there. */
import { readFileSync } from "node:fs"
import { Agent, type Dispatcher } from "undici"

/** CPU time that a process has used, or its first thread alone, which runs the event loop, µs. Linux only. */
export const cpuMicros = (pid: number, thread: "all" | "first" = "all"): number => {
  const stat = readFileSync(thread === "all" ? `/proc/${pid}/stat` : `/proc/${pid}/task/${pid}/stat`, "utf8")
  // The name in parentheses may hold spaces; fields count from behind it (proc(5)): utime is the 12th, stime the 13th.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  const ticks = Number(fields[11]) + Number(fields[12])
  return ticks * 10_000
}

/** Resident memory of a process, MiB. */
export const residentMiB = (pid: number): number => {
  const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))
  return Number(match?.[1] ?? NaN) / 1024
}

/** A request to measure. */
export interface Target {
  readonly url: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** How one request went; times in ms from its start. */
export interface Timing {
  readonly firstByte: number
  readonly total: number
  readonly bytes: number
}

const noBytes = Buffer.alloc(0)

/** Sends one request and reads its answer to the end. Rejects for any status but 200. */
export const once = (agent: Agent, target: Target, find?: string): Promise<Timing> =>
  new Promise((resolve, reject) => {
    const started = performance.now()
    let first: number | undefined
    let bytes = 0
    let status = 0
    let seen: Buffer = noBytes
    const handler: Dispatcher.DispatchHandler = {
      onRequestStart: () => undefined,
      onResponseStart: (_, code) => {
        status = code
      },
      onResponseData: (_, chunk) => {
        bytes += chunk.length
        if (first !== undefined) return
        if (find === undefined) first = performance.now() - started
        else {
          seen = Buffer.concat([seen, chunk])
          if (seen.includes(find)) first = performance.now() - started
        }
      },
      onResponseEnd: () => {
        const total = performance.now() - started
        if (status === 200) resolve({ firstByte: first ?? total, total, bytes })
        else reject(new Error(`status ${status}`))
      },
      onResponseError: (_, error) => reject(error)
    }
    agent.dispatch(
      { origin: target.url, path: target.path, method: "POST", headers: target.headers, body: target.body },
      handler
    )
  })

/** What a run of requests cost and how fast it was. */
export interface Run {
  readonly requests: number
  readonly seconds: number
  /** CPU µs of the measured process for each request. */
  readonly cpuPerRequest: number
  /** Of those, the ones of its first thread, which runs the event loop. */
  readonly loopPerRequest: number
  readonly timings: ReadonlyArray<Timing>
  readonly residentMiB: number
}

/** Sends `requests` requests, `concurrency` at a time. */
export const run = async (
  pid: number,
  target: Target,
  options: { readonly requests: number; readonly concurrency: number; readonly find?: string }
): Promise<Run> => {
  const agent = new Agent({ connections: options.concurrency, pipelining: 1, bodyTimeout: 0, headersTimeout: 0 })
  const timings: Array<Timing> = []
  let left = options.requests
  const cpu = cpuMicros(pid)
  const loop = cpuMicros(pid, "first")
  const started = performance.now()
  const worker = async (): Promise<void> => {
    while (left-- > 0) timings.push(await once(agent, target, options.find))
  }
  await Promise.all(Array.from({ length: options.concurrency }, worker))
  const seconds = (performance.now() - started) / 1000
  const used = cpuMicros(pid) - cpu
  const usedByLoop = cpuMicros(pid, "first") - loop
  await agent.close()
  return {
    requests: timings.length,
    seconds,
    cpuPerRequest: used / timings.length,
    loopPerRequest: usedByLoop / timings.length,
    timings,
    residentMiB: residentMiB(pid)
  }
}

/** The q-quantile of some numbers. */
export const quantile = (values: ReadonlyArray<number>, q: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN
}
