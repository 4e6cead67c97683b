/**
 * Patterns of the operator's own as detectors. RE2JS parses and compiles a pattern; the program that it becomes is run
 * here, because RE2JS cannot say that a match may yet begin or go on in text that has not come, and because finding all
 * matches with it takes quadratic time for some patterns (`a.*z|a` over a text of `a`).
 *
 * The machine is Pike's (https://swtch.com/~rsc/regexp/regexp2.html): all alternatives side by side, in the order in which
 * a backtracking matcher would try them, so that the match is the one that Perl's rules choose. As in RE2, what it does at
 * a character is worked out once and remembered: a deterministic automaton that grows as texts need it, up to a bound.
 */
import { Result } from "effect"
import type { RE2JS } from "re2js"
import { compile } from "../Patterns.ts"
import { type Detector, isDigit, more, none } from "./Detector.ts"

/** The longest match of a pattern of one's own, in UTF-16 units; what would be longer is not found. */
export const maxMatch = 256

/** Instructions of an RE2 program, by RE2JS's numbers. */
const op = {
  alt: 1,
  altMatch: 2,
  capture: 3,
  emptyWidth: 4,
  fail: 5,
  match: 6,
  nop: 7,
  rune: 8,
  rune1: 9,
  any: 10,
  anyNotNewline: 11
}

/** Assertions, as bits of an `emptyWidth` instruction's argument. */
const assertion = { beginLine: 1, endLine: 2, beginText: 4, endText: 8, wordBoundary: 16, noWordBoundary: 32 }

/** In the argument of a `rune` instruction: without regard to case. */
const foldCase = 1

interface Instruction {
  readonly op: number
  readonly out: number
  readonly arg: number
  readonly runes: Int32Array
}

interface Program {
  readonly start: number
  readonly inst: ReadonlyArray<Instruction>
}

const isInstruction = (value: unknown): value is Instruction =>
  typeof value === "object" && value !== null && "op" in value && typeof value.op === "number" &&
  value.op >= op.alt && value.op <= op.anyNotNewline && "out" in value && typeof value.out === "number" &&
  "arg" in value && typeof value.arg === "number" && "runes" in value && value.runes instanceof Int32Array

/** RE2JS declares no types for its programs: this is the proof that this one has the form that is run here. */
const isProgram = (value: unknown): value is Program =>
  typeof value === "object" && value !== null && "start" in value && typeof value.start === "number" &&
  "inst" in value && Array.isArray(value.inst) && value.inst.every(isInstruction)

const programOf = (pattern: RE2JS): Program | undefined => {
  const program: unknown = pattern.re2().prog
  return isProgram(program) ? program : undefined
}

/** Code points that differ from others in case although they are neither their upper nor their lower case. */
const oddCases = [
  0x130,
  0x131,
  0x17F,
  0x1C5,
  0x1C8,
  0x1CB,
  0x1F2,
  0x345,
  0x3C2,
  0x3D0,
  0x3D1,
  0x3D5,
  0x3D6,
  0x3F0,
  0x3F1
]
  .concat([0x3F4, 0x3F5, 0x1C80, 0x1E9B, 0x1E9E, 0x1FBE, 0x2126, 0x212A, 0x212B])

const sameLetter = (a: number, b: number): boolean => {
  const left = String.fromCodePoint(a)
  const right = String.fromCodePoint(b)
  return left.toLowerCase() === right.toLowerCase() || left.toUpperCase() === right.toUpperCase()
}

const lastPoint = 0x10FFFF

/** The code points that an instruction reads, as pairs of first and last. */
const rangesOf = ({ arg, op: kind, runes }: Instruction): ReadonlyArray<number> => {
  if (kind === op.any) return [0, lastPoint]
  if (kind === op.anyNotNewline) return [0, 9, 11, lastPoint]
  if (runes.length !== 1) return Array.from(runes)
  const [point = 0] = runes
  if ((arg & foldCase) === 0) return [point, point]
  const letter = String.fromCodePoint(point)
  const others = [letter.toLowerCase().codePointAt(0), letter.toUpperCase().codePointAt(0), ...oddCases]
  const all = new Set([point])
  for (const other of others) if (other !== undefined && sameLetter(point, other)) all.add(other)
  return Array.from(all).sort((a, b) => a - b).flatMap((each) => [each, each])
}

/** What assertions see of a character: nothing, the end of a line, a part of a word, anything else. */
const side = { nothing: 0, newline: 1, word: 2, other: 3 }

/** RE2's words are ASCII. */
const sideOf = (point: number): number => {
  if (point === 10) return side.newline
  const word = isDigit(point) || (point >= 97 && point <= 122) || (point >= 65 && point <= 90) || point === 95
  return word ? side.word : side.other
}

/** Whether assertions hold between two characters. */
const holds = (bits: number, before: number, after: number): boolean => {
  if ((bits & assertion.beginText) !== 0 && before !== side.nothing) return false
  if ((bits & assertion.endText) !== 0 && after !== side.nothing) return false
  if ((bits & assertion.beginLine) !== 0 && before !== side.nothing && before !== side.newline) return false
  if ((bits & assertion.endLine) !== 0 && after !== side.nothing && after !== side.newline) return false
  const between = (before === side.word) !== (after === side.word)
  if ((bits & assertion.wordBoundary) !== 0 && !between) return false
  return (bits & assertion.noWordBoundary) === 0 || !between
}

const looksAhead = assertion.endLine | assertion.endText | assertion.wordBoundary | assertion.noWordBoundary

/** Characters that no instruction and no assertion tells apart are one class. */
class Classes {
  /** The first code point of each class, rising from 0. */
  readonly #firsts: ReadonlyArray<number>
  readonly #ascii: Uint16Array

  constructor(ranges: ReadonlyArray<ReadonlyArray<number>>) {
    const edges = new Set([0, 10, 11, 48, 58, 65, 91, 95, 96, 97, 123])
    for (const pairs of ranges) {
      for (const [index, point] of pairs.entries()) edges.add(index % 2 === 0 ? point : point + 1)
    }
    this.#firsts = Array.from(edges).filter((point) => point <= lastPoint).sort((a, b) => a - b)
    this.#ascii = Uint16Array.from({ length: 128 }, (_, point) => this.#search(point))
  }

  get count(): number {
    return this.#firsts.length
  }

  of(point: number): number {
    return point < 128 ? this.#ascii[point] ?? 0 : this.#search(point)
  }

  /** One of its characters. */
  sample(index: number): number {
    return this.#firsts[index] ?? 0
  }

  #search(point: number): number {
    let low = 0
    let high = this.#firsts.length
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if ((this.#firsts[middle] ?? 0) <= point) low = middle
      else high = middle
    }
    return low
  }
}

/** Where the machine is: the instructions to go on with, in their order, and what stands before. */
interface State {
  readonly starts: ReadonlyArray<number>
  readonly before: number
  /** By the class of the next character: where that leads, and whether a match ends before it. */
  readonly next: Array<State | undefined>
  readonly matches: Array<boolean>
}

/** What the machine can do at a place, before the next character is read. */
interface Reach {
  /** Instructions that read, in their order; those behind a match do not count. */
  readonly reading: ReadonlyArray<number>
  readonly matches: boolean
  /** An assertion could not be decided, because what comes is not known. */
  readonly open: boolean
}

/** The most states that are remembered; then the memory is emptied. */
const maxStates = 1_000

const isHighSurrogate = (unit: number): boolean => unit >= 0xD800 && unit <= 0xDBFF
const isLowSurrogate = (unit: number): boolean => unit >= 0xDC00 && unit <= 0xDFFF

class Machine {
  readonly #program: Program
  readonly #ranges: ReadonlyArray<ReadonlyArray<number>>
  readonly #classes: Classes
  readonly #states = new Map<string, State>()
  readonly #initial: Array<State | undefined> = []

  constructor(program: Program) {
    this.#program = program
    this.#ranges = program.inst.map((instruction) => instruction.op >= op.rune ? rangesOf(instruction) : [])
    this.#classes = new Classes(this.#ranges)
  }

  /** Whether a match can begin with an ASCII character, whatever stands around it. */
  canBeginWith(point: number): boolean {
    const seen = new Set<number>()
    const walk: Array<number> = [this.#program.start]
    for (let at = walk.pop(); at !== undefined; at = walk.pop()) {
      const instruction = this.#program.inst[at]
      if (instruction === undefined || seen.has(at)) continue
      seen.add(at)
      if (instruction.op >= op.rune) {
        if (this.#reads(at, point)) return true
      } else if (instruction.op === op.alt || instruction.op === op.altMatch) {
        walk.push(instruction.out, instruction.arg)
      } else if (instruction.op !== op.match && instruction.op !== op.fail) walk.push(instruction.out)
    }
    return false
  }

  /** Where the match that begins at `from` ends, as `Detector.match` says it. */
  match(text: string, from: number, final: boolean): number {
    if (from > 0 && isLowSurrogate(text.charCodeAt(from)) && isHighSurrogate(text.charCodeAt(from - 1))) return none
    const initial = from === 0 ? side.nothing : sideOf(text.charCodeAt(from - 1))
    let state = this.#initial[initial] ??= this.#stateOf([this.#program.start], initial)
    let best = none
    for (let at = from;;) {
      const unit = text.charCodeAt(at)
      if (at >= text.length) return this.#atEnd(state, from, at, best, final)
      let point = unit
      if (isHighSurrogate(unit)) {
        // Half a character says nothing yet.
        if (at + 1 === text.length && !final) return this.#atEnd(state, from, at, best, false)
        point = text.codePointAt(at) ?? unit
      }
      const index = this.#classes.of(point)
      const next = state.next[index] ?? this.#step(state, index)
      if (state.matches[index] === true && at > from) best = at
      if (next.starts.length === 0 || at - from >= maxMatch) return best
      at += point > 0xFFFF ? 2 : 1
      state = next
    }
  }

  /** What is to be said where the text ends, for now or for good. */
  #atEnd(state: State, from: number, at: number, best: number, final: boolean): number {
    const { matches, open, reading } = this.#reach(state, final ? side.nothing : undefined)
    const mayGoOn = !final && reading.length > 0 && at - from < maxMatch
    if (open || mayGoOn) return more
    return matches && at > from ? at : best
  }

  #step(state: State, index: number): State {
    const point = this.#classes.sample(index)
    const { matches, reading } = this.#reach(state, sideOf(point))
    const starts: Array<number> = []
    for (const at of reading) {
      const out = this.#program.inst[at]?.out
      if (out !== undefined && !starts.includes(out) && this.#reads(at, point)) starts.push(out)
    }
    const next = this.#stateOf(starts, sideOf(point))
    state.next[index] = next
    state.matches[index] = matches
    return next
  }

  #stateOf(starts: ReadonlyArray<number>, before: number): State {
    const key = `${before}:${starts.join()}`
    let state = this.#states.get(key)
    if (state === undefined) {
      if (this.#states.size >= maxStates) {
        // Old states stay reachable from the one that the machine is in, and from no other.
        this.#states.clear()
        this.#initial.length = 0
      }
      state = { starts, before, next: [], matches: [] }
      this.#states.set(key, state)
    }
    return state
  }

  #reads(at: number, point: number): boolean {
    const ranges = this.#ranges[at] ?? []
    for (let i = 0; i + 1 < ranges.length; i += 2) {
      if (point < (ranges[i] ?? 0)) return false
      if (point <= (ranges[i + 1] ?? 0)) return true
    }
    return false
  }

  /** Follows all that needs no reading. */
  #reach({ before, starts }: State, after: number | undefined): Reach {
    const reading: Array<number> = []
    const seen = new Set<number>()
    const walk = starts.toReversed()
    let open = false
    for (let at = walk.pop(); at !== undefined; at = walk.pop()) {
      const instruction = this.#program.inst[at]
      if (instruction === undefined || seen.has(at)) continue
      seen.add(at)
      switch (instruction.op) {
        case op.fail:
          break
        case op.match:
          return { reading, matches: true, open }
        case op.alt:
        case op.altMatch:
          walk.push(instruction.arg, instruction.out)
          break
        case op.capture:
        case op.nop:
          walk.push(instruction.out)
          break
        case op.emptyWidth:
          if (after === undefined && (instruction.arg & looksAhead) !== 0) open = true
          else if (holds(instruction.arg, before, after ?? side.other)) walk.push(instruction.out)
          break
        default:
          reading.push(at)
      }
    }
    return { reading, matches: false, open }
  }
}

/**
 * The detector of a pattern; `name` is what it finds. Fails with what is wrong with the pattern. A match has at most
 * `maxMatch` units, and its beginning and end see their neighbours, so that `\b` works.
 */
export const customPattern = (name: string, source: string): Result.Result<Detector, string> => {
  if (!/^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$/.test(name)) {
    return Result.fail(
      "a pattern's name has 1 to 64 of A-Z, a-z, 0-9, space, _, . and -, and starts with a letter or digit"
    )
  }
  return Result.flatMap(compile(source), (pattern) => {
    const program = programOf(pattern)
    if (program === undefined) return Result.fail("RE2JS gave a program that this gateway cannot run")
    const machine = new Machine(program)
    const first = Array.from({ length: 128 }, (_, unit) => machine.canBeginWith(unit))
    return Result.succeed({
      kind: name.toUpperCase().replace(/[^A-Z0-9]+/g, "_"),
      noun: `what the pattern "${name}" describes`,
      mayBeginWith: (unit) => first[unit] === true,
      beyondAscii: true,
      match: (text, at, final) => machine.match(text, at, final)
    })
  })
}
