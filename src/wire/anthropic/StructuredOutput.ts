/**
 * Structured output on models that have no `output_config.format`: the schema becomes the input of a tool that the model
 * is made to call, and the call's input is the answer. Request encoder, response decoder and stream decoder each derive
 * the tool from the call with this same function, so nothing has to be handed along between them.
 */
import type { ChatCall } from "../../sdk/Provider.ts"
import { traitsOf } from "./ModelTraits.ts"

/** The tool whose input is the answer. */
export interface AnswerTool {
  readonly name: string
  /** Whether the request has tools of its own: then the model must call some tool, not this one. */
  readonly amongOthers: boolean
}

const illegal = /[^a-zA-Z0-9_-]/g

/**
 * The tool that stands for the response schema, where the call needs one. There is none when the caller forces tools of
 * its own for this turn, because then the turn's answer is that tool call.
 */
export const answerTool = (call: ChatCall): AnswerTool | undefined => {
  const { responseSchema, toolChoice, tools } = call.request
  if (responseSchema?.type !== "json_schema" || traitsOf(call.model.model).structuredOutput) return undefined
  const amongOthers = tools !== undefined && tools.length > 0 && toolChoice?.type !== "none"
  if (amongOthers && forcesTools(call)) return undefined
  const taken = new Set<unknown>(tools?.map((tool) => tool.type === "unified" ? tool.name : tool.value["name"]))
  let name = (responseSchema.name ?? "json_response").replaceAll(illegal, "_").slice(0, 48)
  while (taken.has(name)) name += "_answer"
  return { name, amongOthers }
}

/** Whether the caller obliges the model to call one of its tools. */
export const forcesTools = (call: ChatCall): boolean => {
  const choice = call.request.toolChoice
  return choice?.type === "required" || choice?.type === "tool" ||
    (choice?.type === "allowed" && choice.mode === "required")
}
