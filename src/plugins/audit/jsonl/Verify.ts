/**
 * Reads the files of an audit chain and finds where it is broken: a line that was changed, that is missing, that does not
 * belong where it stands, and an end that is not there any more. Files of any size: they are streamed.
 */
import { Effect, Schema } from "effect"
import { createReadStream } from "node:fs"
import path from "node:path"
import { type ChainLine, genesis, hashLine, type Link, maxLineBytes, parseLine } from "./Chain.ts"

/** What is wrong with a line. */
export type ChainProblemKind = "changed" | "missing" | "inserted" | "reordered" | "torn" | "truncated"

/** A place where the chain is broken. */
export interface ChainProblem {
  readonly file: string
  /** From 1; where lines are missing, the one before which they should be. */
  readonly line: number
  readonly kind: ChainProblemKind
  readonly message: string
}

/** What the files hold. */
export interface ChainReport {
  readonly lines: number
  /** The first line's number; absent for empty files. */
  readonly first?: number
  /** The end of the chain, for keeping elsewhere. */
  readonly head?: Link
  /** By place, the first hundred of them; the chain is whole where there are none. */
  readonly problems: ReadonlyArray<ChainProblem>
}

/** What is known of the chain from elsewhere. */
export interface VerifyOptions {
  /** A link that has to be in the chain: its hash and, where known, its number. */
  readonly head?: { readonly hash: string; readonly seq?: number }
  /** The number that the first line has to have; default 1, or what a later line about deleted files says. */
  readonly from?: number
}

/** A file could not be read. */
export class UnreadableFile extends Schema.TaggedError<UnreadableFile>()("UnreadableFile", {
  file: Schema.String,
  problem: Schema.String
}) {
  override get message() {
    return `${this.file} cannot be read: ${this.problem}`
  }
}

const unreadable = (file: string, cause: unknown): UnreadableFile =>
  cause instanceof UnreadableFile
    ? cause
    : new UnreadableFile({ file, problem: cause instanceof Error ? cause.message : String(cause) })

const maxProblems = 100

// ---------------------------------------------------------------------------------------------------------------------
// Lines
// ---------------------------------------------------------------------------------------------------------------------

interface Place {
  readonly file: string
  readonly line: number
}

interface Line extends Place {
  readonly hash: string
  /** Absent for what is no line of a chain. */
  readonly entry?: ChainLine
  /** Whether it lacks its newline. */
  readonly torn: boolean
}

const lineAt = (file: string, line: number, bytes: Uint8Array, torn: boolean): Line => {
  const entry = bytes.length > maxLineBytes ? undefined : parseLine(Buffer.from(bytes).toString("utf8"))
  return { file, line, hash: hashLine(bytes), torn, ...(entry === undefined ? {} : { entry }) }
}

/** The lines of a file. One that is longer than any of the gateway's is given cut. */
async function* linesOf(file: string): AsyncGenerator<Line> {
  let number = 0
  let kept: Array<Uint8Array> = []
  let length = 0
  const keep = (part: Uint8Array): void => {
    if (length <= maxLineBytes) kept.push(part)
    length += part.length
  }
  for await (const chunk of createReadStream(file)) {
    const bytes: Uint8Array = chunk
    let from = 0
    for (let to = bytes.indexOf(0x0a); to >= 0; to = bytes.indexOf(0x0a, from)) {
      keep(bytes.subarray(from, to))
      yield lineAt(file, ++number, kept.length === 1 && kept[0] !== undefined ? kept[0] : Buffer.concat(kept), false)
      kept = []
      length = 0
      from = to + 1
    }
    if (from < bytes.length) keep(bytes.subarray(from))
  }
  if (length > 0) yield lineAt(file, ++number, Buffer.concat(kept), true)
}

/** The files of one rotation by age, and others as they were given: `a.jsonl.2`, `a.jsonl.1`, `a.jsonl`. */
export const inOrder = (files: ReadonlyArray<string>): ReadonlyArray<string> => {
  const parts = files.map((file) => {
    const [, base = file, number] = /^(.*)\.(\d{1,9})$/.exec(file) ?? []
    return { file, base: path.resolve(base), age: number === undefined ? 0 : Number(number) }
  })
  return parts.some(({ base }) => base !== parts[0]?.base)
    ? files
    : parts.toSorted((a, b) => b.age - a.age).map(({ file }) => file)
}

async function* linesOfAll(files: ReadonlyArray<string>): AsyncGenerator<Line> {
  for (const file of files) {
    try {
      yield* linesOf(file)
    } catch (cause) {
      throw unreadable(file, cause)
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The chain
// ---------------------------------------------------------------------------------------------------------------------

/** A line that was taken for the one that was due. */
interface Accepted {
  readonly seq: number
  /** Absent where it is known that the line is not what it was: the next one cannot fit it. */
  readonly hash: string | undefined
  readonly place: Place | undefined
}

const before: Accepted = { seq: genesis.seq, hash: genesis.hash, place: undefined }

const follows = (entry: ChainLine | undefined, last: Accepted): boolean =>
  entry !== undefined && entry.seq === last.seq + 1 && (last.hash === undefined || entry.prev === last.hash)

/**
 * Goes from line to line with one line of foresight: where two neighbours do not fit, the one after them tells which of the
 * two is wrong.
 */
class Walk {
  readonly problems: Array<ChainProblem> = []
  lines = 0
  /** The first line that counts, once it is known. */
  #start: (Place & Pick<ChainLine, "seq" | "prev">) | undefined
  /** Whether a line says that all before the first one were deleted by rotation. */
  #startIsNoted = false
  #beforeLast: Accepted | undefined
  #last = before
  #end: Place
  #headMet = false
  readonly #options: VerifyOptions

  constructor(options: VerifyOptions, lastFile: string) {
    this.#options = options
    this.#end = { file: lastFile, line: 0 }
  }

  get first(): number | undefined {
    return this.#start?.seq
  }

  get head(): Link | undefined {
    const { hash, seq } = this.#last
    return hash === undefined || seq === 0 ? undefined : { seq, hash }
  }

  /** Takes a line, knowing the one after it. Says whether it took both. */
  take(line: Line, next: Line | undefined): boolean {
    this.#see(line)
    const { entry } = line
    if (line.torn) this.#report(line, "torn", "the line is not complete; the gateway takes it away at its next start")
    else if (entry === undefined) this.#takeForeign(line, next)
    else {
      if (this.#start === undefined) this.#begin(line, entry, next)
      if (follows(entry, this.#last)) this.#accept(line, entry.seq)
      else if (next !== undefined && this.#last.hash !== undefined && follows(next.entry, this.#last)) {
        return this.#takeBeforeDue(line, entry, next)
      } else if (entry.seq === this.#last.seq && entry.prev === this.#beforeLast?.hash) this.#takeRival(line, next)
      else if (entry.seq === this.#last.seq + 1) this.#takeUnlinked(line, next)
      else this.#takeMisnumbered(line, entry, next)
    }
    return false
  }

  /** Looks at what only the end can tell. */
  finish(): void {
    const { from, head } = this.#options
    const start = this.#start
    if (start !== undefined && (from === undefined ? start.seq !== 1 && !this.#startIsNoted : start.seq !== from)) {
      const due = from ?? 1
      this.#report(
        start,
        "missing",
        `the chain starts at line ${start.seq} and not at ${due}; are these all of its files?`
      )
    }
    if (head === undefined || this.#headMet) return
    if (head.seq !== undefined && this.#last.seq >= head.seq) return
    this.#report(
      { file: this.#end.file, line: this.#end.line + 1 },
      "truncated",
      head.seq === undefined
        ? "no line has the expected hash"
        : `the chain ends at line ${this.#last.seq}, before the expected line ${head.seq}`
    )
  }

  /** Decides where the chain starts: after deleted files it is in the middle, and whether it should is known at the end. */
  #begin(line: Line, entry: ChainLine, next: Line | undefined): void {
    // A line before the first one, or one that stands in the place of it.
    if (entry.seq !== 1 && follows(next?.entry, before)) return
    if (entry.seq === 1 || next?.entry?.seq === 2) this.#start = { ...line, seq: 1, prev: genesis.hash }
    else {
      this.#start = { ...line, seq: entry.seq, prev: entry.prev }
      this.#last = { seq: entry.seq - 1, hash: entry.prev, place: undefined }
    }
  }

  #takeForeign(line: Line, next: Line | undefined): void {
    this.#report(line, "changed", "the line is none of an audit chain")
    // Where the next line has the number after the one that is due, this line stands in the place of that one.
    const due = this.#last.seq + 1
    if (next?.entry?.seq !== due + 1) return
    this.#start ??= { ...line, seq: due, prev: genesis.hash }
    this.#accept(line, due, false)
  }

  /** The line that is due comes next. */
  #takeBeforeDue(line: Line, entry: ChainLine, next: Line): boolean {
    const due = this.#last.seq + 1
    if (entry.seq !== due + 1 || entry.prev !== next.hash) {
      this.#report(line, "inserted", "the line does not belong here")
      return false
    }
    this.#see(next)
    this.#start ??= { ...line, seq: due, prev: genesis.hash }
    this.#report(line, "reordered", `the lines ${due} and ${due + 1} stand in the wrong order`)
    this.#accept(next, due)
    this.#accept(line, due + 1)
    return true
  }

  /** The line fits as well as the one before it did: the one that the next line, or the expected head, knows is the true one. */
  #takeRival(line: Line, next: Line | undefined): void {
    const isTrue = next?.entry === undefined ? this.#options.head?.hash === line.hash : next.entry.prev === line.hash
    this.#report(isTrue ? this.#last.place ?? line : line, "inserted", "the line does not belong here")
    if (!isTrue) return
    this.#last = this.#beforeLast ?? before
    this.#accept(line, this.#last.seq + 1)
  }

  /** The line has the right number, but does not know the one before it. */
  #takeUnlinked(line: Line, next: Line | undefined): void {
    const seq = this.#last.seq + 1
    const known = next?.entry === undefined
      ? this.#options.head?.hash === line.hash
      : next.entry.seq === seq + 1 && next.entry.prev === line.hash
    const { place } = this.#last
    if (known && place !== undefined) {
      this.#report(place, "changed", "the line is not what the next one says that it was")
    } else {
      this.#report(
        line,
        "changed",
        next === undefined && place !== undefined
          ? "this line or the one before it was changed"
          : "the line was changed"
      )
    }
    this.#accept(line, seq, known || next === undefined)
  }

  #takeMisnumbered(line: Line, entry: ChainLine, next: Line | undefined): void {
    const due = this.#last.seq + 1
    const instead = `line ${due} is due here, and not ${entry.seq}`
    if (next?.entry?.seq === due + 1) {
      this.#report(line, entry.prev === this.#last.hash ? "changed" : "reordered", instead)
      this.#accept(line, due, false)
    } else if (entry.seq > due) {
      const missing = entry.seq - 1 === due ? `line ${due} is` : `the lines ${due} to ${entry.seq - 1} are`
      this.#report(line, "missing", `${missing} missing`)
      this.#accept(line, entry.seq)
    } else this.#report(line, "inserted", instead)
  }

  #see(place: Place): void {
    this.lines++
    this.#end = { file: place.file, line: place.line }
  }

  #accept(line: Line, seq: number, intact = true): void {
    this.#beforeLast = this.#last
    this.#last = { seq, hash: intact ? line.hash : undefined, place: { file: line.file, line: line.line } }
    const discarded = line.entry?.discarded
    if (discarded !== undefined && discarded.seq + 1 === this.#start?.seq && discarded.hash === this.#start.prev) {
      this.#startIsNoted = true
    }
    const { head } = this.#options
    if (head === undefined) return
    if (line.hash === head.hash && (head.seq === undefined || head.seq === seq)) this.#headMet = true
    else if (head.seq === seq) this.#report(line, "changed", "the line does not have the expected hash")
  }

  #report(place: Place, kind: ChainProblemKind, message: string): void {
    const { file, line } = place
    if (this.problems.some((other) => other.line === line && other.file === file)) return
    if (this.problems.length < maxProblems) this.problems.push({ file, line, kind, message })
  }
}

const walk = async (files: ReadonlyArray<string>, options: VerifyOptions): Promise<ChainReport> => {
  const order = inOrder(files)
  const found = new Walk(options, order.at(-1) ?? "")
  const lines = linesOfAll(order)
  const read = async () => {
    const { done, value } = await lines.next()
    return done === true ? undefined : value
  }
  let line = await read()
  while (line !== undefined) {
    const next = await read()
    line = found.take(line, next) ? await read() : next
  }
  found.finish()
  return {
    lines: found.lines,
    ...(found.first === undefined ? {} : { first: found.first }),
    ...(found.head === undefined ? {} : { head: found.head }),
    problems: found.problems.sort((a, b) => order.indexOf(a.file) - order.indexOf(b.file) || a.line - b.line)
  }
}

/** Checks the chain in some files; what is wrong with it is in the report. Fails where a file cannot be read. */
export const verify = (
  files: ReadonlyArray<string>,
  options: VerifyOptions = {}
): Effect.Effect<ChainReport, UnreadableFile> =>
  Effect.tryPromise({ try: () => walk(files, options), catch: (cause) => unreadable(files.join(", "), cause) })
