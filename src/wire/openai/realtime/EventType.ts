/**
 * The type of an event, read out of its JSON without parsing it: nearly all that goes through a session is sound in base64, of
 * which the gateway has to know only that it is that. Strings are passed over by the platform's own search for their end.
 */

const quote = 0x22
const backslash = 0x5c
const comma = 0x2c
const colon = 0x3a
const opening = 0x7b
const closing = 0x7d
const openingList = 0x5b
const closingList = 0x5d

const decoder = new TextDecoder()

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

const skipSpace = (data: Uint8Array, from: number): number => {
  let at = from
  while (isSpace(data[at])) at++
  return at
}

/** The place of the quote that ends a string; `from` is after the one that begins it. -1 where there is none. */
const endOfString = (data: Uint8Array, from: number): number => {
  let at = data.indexOf(quote, from)
  while (at > 0) {
    let escapes = 0
    while (at - escapes > from && data[at - 1 - escapes] === backslash) escapes++
    if (escapes % 2 === 0) return at
    at = data.indexOf(quote, at + 1)
  }
  return -1
}

/** The place after a value; -1 where the text ends before. What is no JSON is passed over somehow. */
const endOfValue = (data: Uint8Array, from: number): number => {
  if (data[from] === quote) {
    const end = endOfString(data, from + 1)
    return end < 0 ? -1 : end + 1
  }
  let depth = 0
  for (let at = from; at < data.length; at++) {
    const byte = data[at]
    if (byte === quote) {
      at = endOfString(data, at + 1)
      if (at < 0) return -1
    } else if (byte === opening || byte === openingList) depth++
    else if (byte === closing || byte === closingList) {
      if (depth === 0) return at
      if (--depth === 0) return at + 1
    } else if (depth === 0 && byte === comma) return at
  }
  return -1
}

const key = Uint8Array.from("type", (letter) => letter.charCodeAt(0))

const isKey = (data: Uint8Array, from: number, to: number): boolean =>
  to - from === key.length && key.every((byte, index) => data[from + index] === byte)

/**
 * The `type` of a JSON object. Undefined where it cannot be told without parsing: no object, no type, a key with an escape in
 * it. With `exact` all keys are looked at, and a second type makes it undefined, since parsers do not agree on which one
 * counts; without it the first one is told.
 */
export const eventType = (data: Uint8Array, exact: boolean): string | undefined => {
  let at = skipSpace(data, 0)
  if (data[at] !== opening) return undefined
  let type: string | undefined
  at = skipSpace(data, at + 1)
  while (data[at] === quote) {
    const start = at + 1
    const end = endOfString(data, start)
    if (end < 0 || (exact && data.subarray(start, end).includes(backslash))) return undefined
    at = skipSpace(data, end + 1)
    if (data[at] !== colon) return undefined
    at = skipSpace(data, at + 1)
    const after = endOfValue(data, at)
    if (after < 0) return undefined
    if (isKey(data, start, end)) {
      const value = data.subarray(at + 1, after - 1)
      if (type !== undefined || data[at] !== quote || value.includes(backslash)) return undefined
      type = decoder.decode(value)
      if (!exact) return type
    }
    at = skipSpace(data, after)
    if (data[at] !== comma) break
    at = skipSpace(data, at + 1)
  }
  return data[at] === closing ? type : undefined
}
