/**
 * Names the fields of other wires that a request carries in its extensions. A caller of the OpenAI dialect may send a field
 * that only OpenAI knows; where the request goes to Anthropic, that field goes nowhere, and the answer has to say so.
 *
 * Names are in the native API's spelling, with `[]` for a place in a list: `foo`, `messages[].foo`,
 * `messages[].content[].foo` (what stands inside a tool's result included), `tools[].foo`.
 */
import type { Extensions, Part } from "../sdk/Content.ts"
import type { ChatCall } from "../sdk/Provider.ts"
import { anthropicExtensions } from "./anthropic/AnthropicExtensions.ts"
import type { Json } from "./Codec.ts"
import { absent, bounded, isJson } from "./Json.ts"
import { generateExtensions, generateWire, ollamaExtensions } from "./ollama/OllamaExtensions.ts"
import { openAiExtensions } from "./openai/OpenAiExtensions.ts"
import { responsesExtensions, wire as responses } from "./openai/responses/ResponsesExtensions.ts"
import type { Report } from "./Report.ts"

/** The values that carry extensions. */
export type Level = "request" | "message" | "part" | "tool"

/**
 * How to read a wire's extensions: which of them say nothing that is lost. Each wire's folder exports its own.
 *
 * `marks` are keys that the wire's decoder put there for its encoder, or that tell again what a canonical field says; a
 * canonical field's name in place of `true` makes the key one only where that field is set. `members` are objects whose
 * fields are named one by one (`options.num_ctx`); marks inside them are written `options.num_ctx`, too. `refused` are keys of
 * a request, with the problem, that cannot be left out without changing what is asked.
 */
export interface ExtensionReading {
  readonly marks: Readonly<Record<Level, ReadonlyMap<string, string | true>>>
  readonly members: ReadonlySet<string>
  readonly refused?: ReadonlyMap<string, string>
}

const readings: ReadonlyMap<string, ExtensionReading> = new Map([
  ["anthropic", anthropicExtensions],
  ["ollama", ollamaExtensions],
  [generateWire, generateExtensions],
  ["openai", openAiExtensions],
  [responses, responsesExtensions]
])

/** A request can hold any number of unknown fields; so many are named, and the rest is counted. */
const maxNames = 24
const maxName = 60

interface Extended {
  readonly extensions?: Extensions
}

/** What is collected, each name once. Most requests have none, so nothing is made before there is something to name. */
interface Names {
  readonly wire: string
  readonly report: Report
  found: Set<string> | undefined
}

const readFields = (
  names: Names,
  fields: Json,
  within: string,
  level: Level,
  prefix: string,
  value: Extended,
  reading: ExtensionReading | undefined
): void => {
  for (const key of Object.keys(fields)) {
    const field = fields[key]
    if (absent(field)) continue
    const path = within + key
    const mark = reading?.marks[level].get(path)
    if (mark === true || (mark !== undefined && Reflect.get(value, mark) !== undefined)) continue
    const problem = level === "request" ? reading?.refused?.get(path) : undefined
    if (problem !== undefined) names.report.refuse(path, problem)
    else if (isJson(field) && reading?.members.has(path) === true) {
      readFields(names, field, `${path}.`, level, prefix, value, reading)
    } else (names.found ??= new Set()).add(prefix + bounded(path, maxName))
  }
}

const readExtensions = (names: Names, level: Level, prefix: string, value: Extended): void => {
  if (value.extensions === undefined) return
  for (const wire of Object.keys(value.extensions)) {
    const fields = wire === names.wire ? undefined : value.extensions[wire]
    if (fields !== undefined) readFields(names, fields, "", level, prefix, value, readings.get(wire))
  }
}

const readParts = (names: Names, parts: ReadonlyArray<Part>): void => {
  for (const part of parts) {
    if (part.type === "opaque") continue
    readExtensions(names, "part", "messages[].content[].", part)
    if (part.type === "tool_result") readParts(names, part.content)
  }
}

/** Only OpenAI's Responses API keeps conversations. */
const refuseState = ({ previousResponseId, store }: ChatCall["request"], report: Report): void => {
  if (previousResponseId !== undefined) {
    report.refuse("previous_response_id", "this provider keeps no conversations; send the whole conversation")
  }
  if (store === true) report.refuse("store", "this provider keeps no answers; leave store out, or send false")
}

/**
 * Reports the fields of wires other than `wire`, which is being written, as dropped, or as refused. A message's `cache_control` counts as read where one of its parts has a
 * breakpoint: the decoder puts it there.
 */
export const reportForeign = (request: ChatCall["request"], wire: string, report: Report): void => {
  const names: Names = { wire, report, found: undefined }
  if (wire !== responses) refuseState(request, report)
  readExtensions(names, "request", "", request)
  for (const message of request.messages) {
    if (message.extensions !== undefined) {
      const cached = message.content.find((part) => "cacheControl" in part && part.cacheControl !== undefined)
      readExtensions(names, "message", "messages[].", {
        ...(cached === undefined ? {} : { cacheControl: true }),
        extensions: message.extensions
      })
    }
    readParts(names, message.content)
  }
  for (const tool of request.tools ?? []) if (tool.type === "unified") readExtensions(names, "tool", "tools[].", tool)
  reportNames(names)
}

/** As `reportForeign`, for requests that have extensions at their top alone. */
export const reportForeignFields = (request: Extended, wire: string, report: Report): void => {
  const names: Names = { wire, report, found: undefined }
  readExtensions(names, "request", "", request)
  reportNames(names)
}

const reportNames = ({ found, report }: Names): void => {
  if (found === undefined) return
  let told = 0
  for (const name of found) {
    if (told === maxNames) {
      report.drop(`${found.size - told} more fields of other protocols`)
      return
    }
    report.drop(name)
    told += 1
  }
}
