/** What Anthropic's protocol keeps beside the sdk's words, under its own name. */
import type { Json } from "../Codec.ts"
import type { ExtensionReading } from "../ForeignExtensions.ts"

/** This wire's name: of the folder, of extensions, of opaque parts and of sources. */
export const wire = "anthropic"

/** The `extensions` key for a canonical value, or no key where there is nothing to keep. */
export const extensions = (fields: Json | undefined): { readonly extensions?: { readonly anthropic: Json } } =>
  fields === undefined ? {} : { extensions: { anthropic: fields } }

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
