/** What the Responses protocol keeps beside the sdk's words, under its own name, and how other wires read it. */
import type { Extensions } from "../../../sdk/Content.ts"
import type { Json } from "../../Codec.ts"
import type { ExtensionReading } from "../../ForeignExtensions.ts"
import { isJson, object } from "../../Json.ts"

/**
 * This protocol's name among extensions. It is not `openai`: what only the Responses API knows must not be written into a
 * chat completion. Fields that both of OpenAI's APIs have under one name (`prompt_cache_key`) stand under `openai`.
 */
export const wire = "openai-responses"

/** The `extensions` member for fields of this protocol; nothing where there are none. */
export const extended = (fields: Json | undefined): { readonly extensions?: Extensions } =>
  fields === undefined ? {} : { extensions: { [wire]: fields } }

/** What a value carries for this protocol alone. */
export const ownExtensions = (value: { readonly extensions?: Extensions }): Json | undefined => value.extensions?.[wire]

/** Fields of the request that matter to nobody but the answer, which repeats them. */
export const echoOf = (value: { readonly extensions?: Extensions }): Json =>
  object(ownExtensions(value)?.["echo"]) ?? {}

/** Marks the message that the request's `instructions` became. */
export const instructionsMark: Extensions = { [wire]: { instructions: true } }

/** Whether a message stands for the request's `instructions`. */
export const isInstructions = (value: { readonly extensions?: Extensions }): boolean =>
  ownExtensions(value)?.["instructions"] === true

/** Extensions of any wire, as they are read out of JSON; `undefined` for anything else. */
export const readExtensions = (value: unknown): Extensions | undefined => {
  if (!isJson(value)) return undefined
  const read: Record<string, Json> = {}
  for (const name of Object.keys(value)) {
    const fields = value[name]
    if (name === "__proto__" || !isJson(fields)) return undefined
    read[name] = fields
  }
  return read
}

/** How other wires read those fields: everything but the marks is something that no provider gets. */
export const responsesExtensions: ExtensionReading = {
  marks: {
    request: new Map([["echo", true]]),
    message: new Map([["instructions", true]]),
    part: new Map<string, string | true>([
      ["cache_control", "cacheControl"],
      // How an image or thinking of this protocol's came: they go back to it alone.
      ["item", true],
      ["id", true],
      ["summary", true],
      ["status", true]
    ]),
    tool: new Map([["cache_control", "cacheControl"]])
  },
  members: new Set(["reasoning", "text"]),
  refused: new Map([["tool_choice", "names a tool that OpenAI runs, and only its Responses API has those"]])
}
