/**
 * Citations of an answer's text. OpenAI's chat nests an annotation (`{type, url_citation: {…}}`), its Responses API has it
 * flat; within the gateway they are as chat has them. Other providers' citations have no form in either and stand beside
 * the annotations, under `citations`, as they do in the gateway's chat answers.
 */
import type { Json } from "../../Codec.ts"
import { array, isJson } from "../../Json.ts"

/** Citations in the two members of a text part of an answer. */
export interface Cited {
  readonly annotations: ReadonlyArray<Json>
  readonly foreign: ReadonlyArray<unknown>
}

const nothing: Cited = { annotations: [], foreign: [] }

const annotationTypes: ReadonlySet<unknown> = new Set([
  "file_citation",
  "url_citation",
  "container_file_citation",
  "file_path"
])

/** Tells the annotations among some citations apart, in the flat form. */
export const encodeCitations = (citations: ReadonlyArray<unknown> | undefined): Cited => {
  if (citations === undefined || citations.length === 0) return nothing
  const annotations: Array<Json> = []
  const foreign: Array<unknown> = []
  for (const citation of citations) {
    if (!isJson(citation) || !annotationTypes.has(citation["type"])) {
      foreign.push(citation)
      continue
    }
    const { url_citation: inner, ...outer } = citation
    annotations.push(isJson(inner) ? { ...inner, ...outer } : citation)
  }
  return { annotations, foreign }
}

/** The citations of a text part that a caller brings back. */
export const readCitations = (part: Json): ReadonlyArray<unknown> => {
  const citations: Array<unknown> = []
  for (const annotation of array(part["annotations"])) {
    if (isJson(annotation) && annotation["type"] === "url_citation") {
      const { type, ...inner } = annotation
      citations.push({ type, url_citation: inner })
    } else citations.push(annotation)
  }
  citations.push(...array(part["citations"]))
  return citations
}
