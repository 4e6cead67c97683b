/**
 * The figures of several processes behind one address: whichever of them is asked tells those of all, each series with the name of its
 * process as the label `worker`.
 */
import { Context, Effect } from "effect"

/** What one process says of itself, in Prometheus' text format. */
export interface WorkerFigures {
  /** The name of the process: `1`, `2` and so on. */
  readonly worker: string
  readonly text: string
}

/** The other processes that serve the same address; a process alone has none. */
export interface MetricsPeers {
  /** The figures of all of them, with those that this process has just told of itself. */
  readonly collect: (own: string) => Effect.Effect<ReadonlyArray<WorkerFigures> | undefined>
  /** Takes from now on what renders this process's figures when another one is asked. */
  readonly answer: (render: Effect.Effect<string>) => Effect.Effect<void>
}

/** The peers of this process. */
export const MetricsPeers: Context.Reference<MetricsPeers> = Context.Reference<MetricsPeers>(
  "llm-gateway/server/MetricsPeers",
  { defaultValue: () => ({ collect: () => Effect.undefined, answer: () => Effect.void }) }
)

/** `name`, its labels where it has any, and the value. */
const sample = /^([A-Za-z_:][\w:]*)(\{.*\})? (.+)$/u

const labelled = (line: string, worker: string): string => {
  const found = sample.exec(line)
  if (found === null) return line
  const [, name = "", labels = "", value = ""] = found
  const others = labels.slice(1, -1)
  return `${name}{${others === "" ? "" : `${others},`}worker="${worker}"} ${value}`
}

/** One page of all figures: each family once, with the series of all processes. */
export const merged = (all: ReadonlyArray<WorkerFigures>): string => {
  const families = new Map<string, { readonly head: Array<string>; readonly lines: Array<string> }>()
  for (const { text, worker } of all) {
    let family = ""
    for (const line of text.split("\n")) {
      if (line === "") continue
      const told = /^# (?:HELP|TYPE) (\S+)/u.exec(line)?.[1]
      family = told ?? family
      const known = families.get(family) ?? { head: [], lines: [] }
      families.set(family, known)
      if (told === undefined) known.lines.push(labelled(line, worker))
      else if (!known.head.includes(line)) known.head.push(line)
    }
  }
  return Array.from(families.values(), ({ head, lines }) => [...head, ...lines].join("\n")).join("\n") + "\n"
}
