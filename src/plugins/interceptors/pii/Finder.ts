/**
 * Finds in a text that comes in pieces what its detectors look for, from left to right and without overlaps: at each place
 * the first detector of the list that finds something wins. What is found does not depend on how the text was cut.
 */
import { type Detector, more, none } from "./Detector.ts"

/** Takes the text, piece by piece: with a detector where the piece is what that found, without one where it is not. */
export type Sink = (piece: string, found: Detector | undefined) => void

/** How much of what was given out is kept as context of what comes, in UTF-16 units. */
const context = 2

/** Which detectors to ask at a character, so that most characters cost one look-up. */
export class DetectorTable {
  readonly #detectors: ReadonlyArray<Detector>
  readonly #ascii: ReadonlyArray<ReadonlyArray<Detector>>
  readonly #beyond: ReadonlyArray<Detector>
  /** Tables of some of the detectors, by which of those that need something are left out. */
  readonly #parts = new Map<number, DetectorTable>()
  readonly #needs: ReadonlyArray<RegExp>

  constructor(detectors: ReadonlyArray<Detector>) {
    this.#detectors = detectors
    this.#needs = Array.from(
      new Map(detectors.flatMap(({ needs }) => needs === undefined ? [] : [[needs.source, needs] as const])).values()
    )
    this.#ascii = Array.from({ length: 128 }, (_, unit) => detectors.filter((detector) => detector.mayBeginWith(unit)))
    this.#beyond = detectors.filter(({ beyondAscii }) => beyondAscii)
  }

  /** The table of those detectors that may find something in this whole text; `undefined` where none may. */
  for(text: string): DetectorTable | undefined {
    let absent = 0
    for (const [index, need] of this.#needs.entries()) if (!need.test(text)) absent |= 1 << index
    if (absent === 0) return this
    let part = this.#parts.get(absent)
    if (part === undefined) {
      const lacking = new Set(
        this.#needs.filter((_, index) => (absent & (1 << index)) !== 0).map(({ source }) => source)
      )
      part = new DetectorTable(
        this.#detectors.filter(({ needs }) => needs === undefined || !lacking.has(needs.source))
      )
      this.#parts.set(absent, part)
    }
    return part.#detectors.length === 0 ? undefined : part
  }

  /** Those whose matches can begin with this UTF-16 unit, in their order. */
  at(unit: number): ReadonlyArray<Detector> {
    return (unit < 128 ? this.#ascii[unit] : undefined) ?? this.#beyond
  }
}

/** One text on its way. */
export class Finder {
  readonly #table: DetectorTable
  /** Context, and behind it what is not decided yet. */
  #text = ""
  /** Where the undecided begins. */
  #at = 0

  constructor(table: DetectorTable) {
    this.#table = table
  }

  /** Whether text is held back. */
  get holds(): boolean {
    return this.#at < this.#text.length
  }

  /** Takes more of the text, and gives out all that is decided. */
  push(piece: string, sink: Sink): void {
    if (piece === "") return
    this.#text = this.#text === "" ? piece : this.#text + piece
    this.#scan(false, sink)
  }

  /** Gives out the rest: nothing more comes. Text after it is a new one. */
  end(sink: Sink): void {
    if (this.holds) this.#scan(true, sink)
    this.#text = ""
    this.#at = 0
  }

  #scan(final: boolean, sink: Sink): void {
    const text = this.#text
    let kept = this.#at
    let at = kept
    scanning: while (at < text.length) {
      for (const detector of this.#table.at(text.charCodeAt(at))) {
        const end = detector.match(text, at, final)
        if (end === none) continue
        if (end === more) break scanning
        if (at > kept) sink(text.slice(kept, at), undefined)
        sink(text.slice(at, end), detector)
        at = end
        kept = end
        continue scanning
      }
      at++
    }
    if (at > kept) sink(text.slice(kept, at), undefined)
    const cut = Math.max(0, at - context)
    this.#text = cut === 0 ? text : text.slice(cut)
    this.#at = at - cut
  }
}
