/** What Anthropic's protocol keeps beside the sdk's words, under its own name. */
import type { ChatRequest } from "../../sdk/Chat.ts"
import type { Json } from "../Codec.ts"
import type { ExtensionReading } from "../ForeignExtensions.ts"
import { filled, isList } from "../Json.ts"

/** This wire's name: of the folder, of extensions, of opaque parts and of sources. */
export const wire = "anthropic"

/** The `extensions` key for a canonical value, or no key where there is nothing to keep. */
export const extensions = (fields: Json | undefined): { readonly extensions?: { readonly anthropic: Json } } =>
  fields === undefined ? {} : { extensions: { anthropic: fields } }

/** The headers of Anthropic's own with which a caller says how its request is meant. */
export interface VersionHeaders {
  /** `anthropic-version`. */
  readonly version: string | undefined
  /** `anthropic-beta`: names of beta features, divided by commas. */
  readonly beta: string | undefined
}

/**
 * The request with those headers among its extensions, in the spelling of Bedrock and Vertex, which have them in the body:
 * from there the upstream's codec writes them as headers again, and no other wire's reads them. Betas of the header and of
 * the body add up; the version of the header wins.
 */
export const withVersion = (request: ChatRequest, { beta, version }: VersionHeaders): ChatRequest => {
  const named = beta?.split(",").map((name) => name.trim()).filter((name) => name !== "") ?? []
  if (named.length === 0 && filled(version) === undefined) return request
  const own = request.extensions?.[wire]
  const inBody = own?.["anthropic_beta"]
  const known: ReadonlyArray<unknown> = isList(inBody) ? inBody : inBody === undefined ? [] : [inBody]
  return {
    ...request,
    extensions: {
      ...request.extensions,
      [wire]: {
        ...own,
        ...(filled(version) === undefined ? {} : { anthropic_version: version }),
        ...(named.length === 0 ? {} : { anthropic_beta: Array.from(new Set([...known, ...named])) })
      }
    }
  }
}

/** How other wires read those fields. Marks are headers of the request, and the place of a system message within its conversation. */
export const anthropicExtensions: ExtensionReading = {
  marks: {
    request: new Map([["anthropic_version", true], ["anthropic_beta", true]]),
    message: new Map([["mid_conversation", true]]),
    part: new Map(),
    tool: new Map()
  },
  members: new Set(["metadata", "output_config", "thinking"])
}
