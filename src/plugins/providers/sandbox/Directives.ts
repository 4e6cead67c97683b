/**
 * How a caller tells the sandbox what to do: by the model's name (`fail-429`), or by directives anywhere in the last
 * user message (`[[fail 429]]`). Both say the same things, and a directive wins over the model's name.
 */
import { Result } from "effect"
import type { FinishReason } from "../../../sdk/Chat.ts"
import type { Failure } from "../../../sdk/Provider.ts"

/** What the text of an answer is made of. */
export type Style = "echo" | "lorem" | "tools" | "json" | "vision"

/** Everything that the sandbox can be told; what is absent is left to the model's ordinary ways. */
export interface Behaviour {
  style: Style
  /** Wait this long before the first token, ms. */
  slow: number
  /** Fail like an upstream: a status, or one of the named failures. */
  fail?: FailureName
  /** Break the connection after so many tokens. */
  cut?: number
  /** Go silent after so many tokens. */
  stall?: number
  /** Answer so many tokens. */
  tokens?: number
  /** Tokens a second; absent: at once. */
  rate?: number
  tools: Array<{ readonly name: string; readonly arguments: string | undefined }>
  /** Answer this text, as JSON; not checked, so that bad answers can be had. */
  json?: string
  reason?: string
  finish?: FinishReason
}

/** A status from 400 to 599, or a failure that a status alone does not tell. */
export type FailureName = number | "context_length" | "content_policy"

/** The most tokens that can be asked for; above it an answer is no test any more. */
const maxTokens = 100_000
const maxDelay = 3_600_000
const maxDirectives = 64

const known = [
  "[[slow 500]]",
  "[[fail 429]]",
  "[[fail context_length]]",
  "[[fail content_policy]]",
  "[[cut 3]]",
  "[[stall 3]]",
  "[[tokens 100]]",
  "[[tokens 100 at 50]]",
  "[[tool get_weather {\"city\":\"Paris\"}]]",
  "[[json {\"a\":1}]]",
  "[[reason some thinking]]",
  "[[finish length]]"
]

const finishes: ReadonlyArray<FinishReason> = ["stop", "length", "tool_calls", "content_filter", "other"]

const wrong = (problem: string): Result.Result<never, Failure> =>
  Result.fail({
    kind: "caller",
    status: 400,
    code: "invalid_directive",
    type: "invalid_request_error",
    field: "messages",
    message: `${problem}; known are ${known.join(" ")}`
  })

const integer = (text: string, least: number, most: number): number | undefined => {
  if (!/^\d{1,9}$/.test(text)) return undefined
  const value = Number(text)
  return value >= least && value <= most ? value : undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Model names
// ---------------------------------------------------------------------------------------------------------------------

/** A behaviour that answers in some style and does nothing else. */
const plain = (style: Style): Behaviour => ({ style, slow: 0, tools: [] })

/** What a model does by its name; `undefined` for a name that the sandbox does not know. */
export const behaviourOf = (model: string): Behaviour | undefined => {
  switch (model) {
    case "echo":
    case "lorem":
    case "tools":
    case "json":
    case "vision":
      return plain(model)
  }
  const [, name, first = "", second] = /^([a-z]+)-([a-z0-9_]+)(?:-at-(\d+))?$/.exec(model) ?? []
  const behaviour = plain(name === "slow" ? "echo" : "lorem")
  if (name === undefined || (second !== undefined && name !== "tokens")) return undefined
  const argument = second === undefined ? first : `${first} at ${second}`
  return Object.hasOwn(numeric, name) && apply(behaviour, name, argument) ? behaviour : undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Arguments
// ---------------------------------------------------------------------------------------------------------------------

/** Whether the argument was understood. */
type Setter = (behaviour: Behaviour, argument: string) => boolean

/** What both a model's name and a directive can say. */
const numeric: Readonly<Record<string, Setter>> = {
  slow: (behaviour, argument) => {
    const ms = integer(argument, 0, maxDelay)
    if (ms === undefined) return false
    behaviour.slow = ms
    return true
  },
  fail: (behaviour, argument) => {
    const named = argument === "context_length" || argument === "content_policy"
      ? argument
      : integer(argument, 400, 599)
    if (named === undefined) return false
    behaviour.fail = named
    return true
  },
  cut: (behaviour, argument) => {
    const tokens = integer(argument, 0, maxTokens)
    if (tokens === undefined) return false
    behaviour.cut = tokens
    return true
  },
  stall: (behaviour, argument) => {
    const tokens = integer(argument, 0, maxTokens)
    if (tokens === undefined) return false
    behaviour.stall = tokens
    return true
  },
  tokens: (behaviour, argument) => {
    const [, count = "", rate] = /^(\d+)(?: +at +(\d+))?$/.exec(argument) ?? []
    const tokens = integer(count, 0, maxTokens)
    const pace = rate === undefined ? 0 : integer(rate, 1, 1_000_000)
    if (tokens === undefined || pace === undefined) return false
    behaviour.tokens = tokens
    if (rate !== undefined) behaviour.rate = pace
    return true
  }
}

const setters: ReadonlyMap<string, Setter> = new Map<string, Setter>([
  ...Object.entries(numeric),
  ["tool", (behaviour, argument) => {
    const [, name, rest = ""] = /^([A-Za-z0-9_.-]{1,128})\s*([^]*)$/.exec(argument) ?? []
    if (name === undefined) return false
    behaviour.tools.push({ name, arguments: rest === "" ? undefined : rest })
    return true
  }],
  ["json", (behaviour, argument) => {
    if (argument === "") behaviour.style = "json"
    else behaviour.json = argument
    return true
  }],
  ["reason", (behaviour, argument) => {
    behaviour.reason = argument
    return argument !== ""
  }],
  ["finish", (behaviour, argument) => {
    const finish = finishes.find((reason) => reason === argument)
    if (finish === undefined) return false
    behaviour.finish = finish
    return true
  }]
])

const apply = (behaviour: Behaviour, name: string, argument: string): boolean =>
  setters.get(name)?.(behaviour, argument) ?? false

// ---------------------------------------------------------------------------------------------------------------------
// Directives
// ---------------------------------------------------------------------------------------------------------------------

const opening = /\[\[([a-z][a-z_-]*)(?=\s|\]\])/g

const isJson = (text: string): boolean => Result.isSuccess(Result.try((): unknown => JSON.parse(text)))

/** Where a directive's argument ends: at the first `]]`, unless its JSON holds that itself. */
const endOf = (text: string, start: number, name: string): number => {
  const first = text.indexOf("]]", start)
  if (first < 0 || (name !== "json" && name !== "tool")) return first
  for (let end = first, tries = 0; end >= 0 && tries < 32; end = text.indexOf("]]", end + 1), tries++) {
    const argument = text.slice(start, end)
    const json = name === "json" ? argument : argument.replace(/^\s*\S+\s*/, "")
    if (isJson(json)) return end
  }
  return first
}

/**
 * Reads the directives out of a text into `behaviour` and gives the text without them. Fails with a caller error that
 * names the directive and lists the known ones. `[[` followed by anything but a lower-case word is ordinary text.
 */
export const readDirectives = (text: string, behaviour: Behaviour): Result.Result<string, Failure> => {
  if (!text.includes("[[")) return Result.succeed(text)
  let kept = ""
  let at = 0
  opening.lastIndex = 0
  for (let count = 0, match = opening.exec(text); match !== null; match = opening.exec(text), count++) {
    const name = match[1] ?? ""
    if (count >= maxDirectives) return wrong(`there are more than ${maxDirectives} directives`)
    if (!setters.has(name)) return wrong(`there is no directive "${name.slice(0, 60)}"`)
    const start = opening.lastIndex
    const end = endOf(text, start, name)
    if (end < 0) return wrong(`the directive "${name}" is not closed by ]]`)
    const argument = text.slice(start, end).trim()
    if (!apply(behaviour, name, argument)) {
      return wrong(`the directive "${name}" cannot take "${argument.slice(0, 100)}"`)
    }
    kept += text.slice(at, match.index)
    at = end + 2
    // Of the white space on both sides only one is kept.
    if (kept === "" || /\s$/.test(kept)) { while (/\s/.test(text[at] ?? "")) at++ }
    opening.lastIndex = at
  }
  if (at === 0) return Result.succeed(text)
  const rest = text.slice(at)
  return Result.succeed(rest === "" ? kept.trimEnd() : kept + rest)
}
