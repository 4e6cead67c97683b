/** The pseudonyms of one request: which placeholder stands for which value, and back. */
import { type Detector, isDigit, more, none } from "./Detector.ts"
import { DetectorTable } from "./Finder.ts"
import type { Rewriting } from "./Rewriter.ts"

const isPlaceholderUnit = (unit: number): boolean => (unit >= 65 && unit <= 90) || isDigit(unit) || unit === 95

/** The longest placeholder, `<`, `>` and number included, in UTF-16 units. */
const maxPlaceholder = 96

/** Text that looks like a placeholder, whoever wrote it. */
const lookalikes = /<[A-Z0-9_]{1,90}>/g

/** The pseudonyms of one request. */
export class Pseudonyms {
  readonly #byValue = new Map<string, string>()
  readonly #byPlaceholder = new Map<string, string>()
  readonly #counts = new Map<string, number>()
  /** Placeholders that the request itself holds: given to a value, they would be restored where the caller wrote them. */
  readonly #taken = new Set<string>()

  get isEmpty(): boolean {
    return this.#byValue.size === 0
  }

  /** Keeps placeholders that stand in the request's own text from being given to a value. */
  reserve(text: string): void {
    if (!text.includes("<")) return
    for (const [placeholder] of text.matchAll(lookalikes)) this.#taken.add(placeholder)
  }

  /** The placeholder of a value; equal values of a kind have the same. */
  placeholder(kind: string, value: string): string {
    const key = `${kind} ${value}`
    const known = this.#byValue.get(key)
    if (known !== undefined) return known
    let count = this.#counts.get(kind) ?? 0
    let made: string
    do made = `<${kind}_${++count}>`
    while (this.#taken.has(made))
    this.#counts.set(kind, count)
    this.#byValue.set(key, made)
    this.#byPlaceholder.set(made, value)
    return made
  }

  /** Puts the values back in the placeholders' place. */
  restoring(): Rewriting {
    const values = this.#byPlaceholder
    const placeholder: Detector = {
      kind: "PLACEHOLDER",
      noun: "a placeholder",
      mayBeginWith: (unit) => unit === 60,
      beyondAscii: false,
      match: (text, at, final) => {
        const limit = at + maxPlaceholder
        let end = at + 1
        while (end < limit && isPlaceholderUnit(text.charCodeAt(end))) end++
        if (end >= text.length && !final && end < limit) return more
        if (text.charCodeAt(end) !== 62) return none
        return values.has(text.slice(at, end + 1)) ? end + 1 : none
      }
    }
    return { table: new DetectorTable([placeholder]), replace: (found) => values.get(found) ?? found }
  }
}
