/**
 * Rewrites texts: what is found is replaced, everything else stays as it is, to the letter. A rewriter takes its text in
 * pieces and gives out what is decided; joined, that is the same whatever the pieces were.
 */
import type { Detector } from "./Detector.ts"
import { type DetectorTable, Finder } from "./Finder.ts"

/** What stands in the place of something found; the same text to leave it. */
export type Replace = (found: string, detector: Detector) => string

/** What to look for, and what to put in its place. */
export interface Rewriting {
  readonly table: DetectorTable
  readonly replace: Replace
}

/** A text on its way through. */
export interface Rewriter {
  readonly push: (piece: string) => string
  /** The rest. Text after it is a new one. */
  readonly end: () => string
  /** Whether text is held back. */
  readonly holds: () => boolean
}

/** Rewrites plain text. */
export const textRewriter = ({ replace, table }: Rewriting): Rewriter => {
  const finder = new Finder(table)
  let out = ""
  const sink = (piece: string, found: Detector | undefined): void => {
    out += found === undefined ? piece : replace(piece, found)
  }
  const taken = (): string => {
    const text = out
    out = ""
    return text
  }
  return {
    push: (piece) => {
      finder.push(piece, sink)
      return taken()
    },
    end: () => {
      finder.end(sink)
      return taken()
    },
    holds: () => finder.holds
  }
}

const quote = 34
const backslash = 92

const escapes: Readonly<Record<string, string>> = {
  "\"": "\"",
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t"
}

/** The form that arguments have; told by their first character. */
type Form = "unknown" | "json" | "text"

/**
 * Rewrites the strings within JSON text, keys and values, and leaves the JSON around them as it is. A replacement is escaped
 * as JSON needs it; what is not replaced keeps the escapes that it came with. Text that is not JSON is rewritten as a whole.
 */
export const jsonRewriter = ({ replace, table }: Rewriting): Rewriter => {
  const finder = new Finder(table)
  const plain = textRewriter({ replace, table })
  let form: Form = "unknown"
  let inString = false
  /** An escape sequence that has not come as a whole. */
  let escape = ""
  /** Characters of a string that the finder has not seen yet. */
  let run = ""
  /** How each character of the string was written that the finder has not given out. */
  let written: Array<string> = []
  /** The first of them that counts. */
  let head = 0
  let out = ""

  const sink = (piece: string, found: Detector | undefined): void => {
    const end = head + piece.length
    const replaced = found === undefined ? piece : replace(piece, found)
    if (replaced !== piece) out += JSON.stringify(replaced).slice(1, -1)
    else for (let i = head; i < end; i++) out += written[i] ?? ""
    head = end
  }

  const take = (decoded: string, source: string): void => {
    written.push(source)
    run += decoded
  }
  const feed = (): void => {
    finder.push(run, sink)
    run = ""
    written = written.slice(head)
    head = 0
  }

  const read = (piece: string): void => {
    for (let i = 0; i < piece.length; i++) {
      const character = piece.charAt(i)
      const unit = piece.charCodeAt(i)
      if (!inString) {
        out += character
        inString = unit === quote
      } else if (escape !== "") {
        escape += character
        if (escape.length === 2 && character !== "u") {
          // An escape that JSON does not have is handed on as it is.
          take(escapes[character] ?? character, escape)
          escape = ""
        } else if (escape.length === 6) {
          const code = Number.parseInt(escape.slice(2), 16)
          take(Number.isNaN(code) ? "\uFFFD" : String.fromCharCode(code), escape)
          escape = ""
        }
      } else if (unit === backslash) escape = character
      else if (unit === quote) {
        feed()
        finder.end(sink)
        out += character
        inString = false
      } else take(character, character)
    }
    feed()
  }

  const taken = (): string => {
    const text = out
    out = ""
    return text
  }

  return {
    push: (piece) => {
      if (form === "unknown") {
        const [first] = piece.trimStart()
        if (first === undefined) return piece
        form = first === "{" || first === "[" || first === "\"" ? "json" : "text"
      }
      if (form === "text") return plain.push(piece)
      read(piece)
      return taken()
    },
    end: () => {
      if (form === "text") {
        form = "unknown"
        return plain.end()
      }
      // The answer may have ended by length, within a string or even within an escape.
      feed()
      finder.end(sink)
      const text = taken() + escape
      form = "unknown"
      inString = false
      escape = ""
      return text
    },
    holds: () => form === "text" ? plain.holds() : finder.holds || escape !== ""
  }
}

/** A rewriting of less: by those detectors alone that may find something in a whole text. */
const narrowed = ({ replace, table }: Rewriting, text: string): Rewriting | undefined => {
  const some = table.for(text)
  return some === undefined ? undefined : { replace, table: some }
}

/** Rewrites a whole text at once. */
export const rewriteText = (rewriting: Rewriting, text: string): string => {
  const narrow = narrowed(rewriting, text)
  if (narrow === undefined) return text
  const rewriter = textRewriter(narrow)
  return rewriter.push(text) + rewriter.end()
}

/** JSON text in which a character may be written as an escape sequence. */
const escaped = /\\u/

/** Rewrites the strings within whole JSON text. */
export const rewriteJson = (rewriting: Rewriting, json: string): string => {
  const narrow = escaped.test(json) ? rewriting : narrowed(rewriting, json)
  if (narrow === undefined) return json
  const rewriter = jsonRewriter(narrow)
  return rewriter.push(json) + rewriter.end()
}
