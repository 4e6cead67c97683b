/** The texts in realtime events: found, and put back changed. */
import { isJson } from "../../Json.ts"

/** The fields whose text somebody reads. */
const fields: ReadonlySet<string> = new Set([
  "text",
  "transcript",
  "instructions",
  "output",
  "arguments",
  "prompt",
  "description"
])

/** Levels of an event that are looked at; nothing that the protocol knows goes deeper. */
const maxDepth = 32

/** A copy of a value with each of its texts as `change` gives it back, always in the same order. */
export const mapTexts = (value: unknown, change: (text: string) => string, depth = maxDepth): unknown => {
  if (depth === 0) return value
  if (Array.isArray(value)) return value.map((item: unknown) => mapTexts(item, change, depth - 1))
  if (!isJson(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      typeof member === "string" && member !== "" && fields.has(name)
        ? change(member)
        : mapTexts(member, change, depth - 1)
    ])
  )
}

/** All texts of a value. */
export const textsIn = (value: unknown): ReadonlyArray<string> => {
  const texts: Array<string> = []
  mapTexts(value, (text) => {
    texts.push(text)
    return text
  })
  return texts
}

/** A copy of a value with other texts, as many as `textsIn` finds. */
export const withTexts = (value: unknown, texts: ReadonlyArray<string>): unknown => {
  let at = 0
  return mapTexts(value, (text) => texts[at++] ?? text)
}
