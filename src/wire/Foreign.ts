/** What a codec says of tools and blocks that only another wire knows, so that a refusal names what the caller has to change. */
import type { Json } from "./Codec.ts"
import { bounded, filled } from "./Json.ts"

const shown = (value: unknown): string | undefined => {
  const text = filled(value)
  return text === undefined ? undefined : `"${bounded(text, 60)}"`
}

/** `the tool "web_search" of type "web_search_20250305"`, as far as the tool says so. */
export const foreignTool = (tool: Json): string => {
  const name = shown(tool["name"])
  const type = shown(tool["type"])
  return `the tool${name === undefined ? "" : ` ${name}`}${type === undefined ? "" : ` of type ${type}`}`
}

/** `a block of type "server_tool_use" (for the tool "web_search")`, as far as the block says so. */
export const foreignBlock = (block: Json): string => {
  const type = shown(block["type"])
  const name = shown(block["name"])
  return `a block${type === undefined ? "" : ` of type ${type}`}${name === undefined ? "" : ` (for the tool ${name})`}`
}
