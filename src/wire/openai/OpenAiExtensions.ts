/**
 * What OpenAI's protocol keeps beside the sdk's words, under its own name: `unknownWithin` takes such fields off a decoded
 * object, `merge` puts them back.
 */
import type { Extensions } from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"
import type { ExtensionReading } from "../ForeignExtensions.ts"
import { isJson, unknownFields } from "../Json.ts"

/** This wire's name. */
export const wire = "openai"

/** What a value carries for this wire alone. */
export const ownExtensions = (value: { readonly extensions?: Extensions }): Json | undefined => value.extensions?.[wire]

/** The `extensions` member for fields of this wire; nothing where there are none. */
export const extended = (fields: Json | undefined): { readonly extensions?: Extensions } =>
  fields === undefined ? {} : { extensions: { [wire]: fields } }

/** Unknown fields of an object, with those of a member object kept under the member's name. */
export const unknownWithin = (
  json: Json,
  known: ReadonlySet<string>,
  member: string,
  knownInside: ReadonlySet<string>
): Json | undefined => {
  const outer = unknownFields(json, known)
  const value = json[member]
  const inner = isJson(value) ? unknownFields(value, knownInside) : undefined
  return inner === undefined ? outer : { ...outer, [member]: inner }
}

/**
 * Adds fields that an object does not have yet, member objects included; what it has is never overridden. Skips
 * `__proto__`, which an assignment would not define as a field.
 */
export const merge = (
  target: Record<string, unknown>,
  fields: Json | undefined,
  except?: ReadonlySet<string>
): Record<string, unknown> => {
  if (fields === undefined) return target
  for (const key of Object.keys(fields)) {
    if (key === "__proto__" || except?.has(key) === true) continue
    const own = Object.hasOwn(target, key) ? target[key] : undefined
    if (own === undefined) target[key] = fields[key]
    else {
      const added = fields[key]
      if (isJson(own) && isJson(added)) target[key] = merge({ ...own }, added)
    }
  }
  return target
}

/**
 * How other wires read those fields. Marks are what `OpenAiDecodeRequest` keeps twice: as a canonical field, and in the extensions for the form in which the
 * caller put it. Stream options are the stream encoder's business.
 */
export const openAiExtensions: ExtensionReading = {
  marks: {
    request: new Map<string, string | true>([
      ["max_tokens", "maxOutputTokens"],
      ["stop", "stop"],
      ["top_k", "topK"],
      ["min_p", "minP"],
      ["repetition_penalty", "repeatPenalty"],
      ["user", "user"],
      ["safety_identifier", "user"],
      ["stream_options", true],
      // `{"type": "text"}` asks for nothing; a form that asks for something has more fields than this one.
      ["response_format.type", true]
    ]),
    message: new Map([["cache_control", "cacheControl"]]),
    part: new Map<string, string | true>([
      ["cache_control", "cacheControl"],
      ["file.file_url", "source"],
      ["file.file_data", "source"],
      ["input_audio.format", "source"],
      // How reasoning came: see `OpenAiReasoning`.
      ["detail", true],
      ["field", true]
    ]),
    tool: new Map([["cache_control", "cacheControl"]])
  },
  members: new Set(["response_format", "image_url", "video_url", "input_audio", "file", "audio", "function"])
}
