/**
 * Rewrites a streamed answer. Text that cannot be part of a match goes on at once; text that may be one's beginning is held
 * back until more of its part has come, the part ends, or the choice finishes. Chunks keep their order.
 *
 * Reasoning that turns out to be signed must come out as it was, and the signature comes last. So as soon as something is
 * replaced within a piece of reasoning, the rest of it waits, in both forms, for a signature or for its end.
 */
import { type Cause, Effect, Stream } from "effect"
import type { ChatChunk, PartDelta } from "../../../sdk/Chat.ts"
import type { GatewayError } from "../../../sdk/GatewayError.ts"
import { mapCitations, mapPart, type Texts, withoutLogprobs } from "./Parts.ts"
import { jsonRewriter, rewriteJson, type Rewriter, rewriteText, type Rewriting, textRewriter } from "./Rewriter.ts"

/** How much reasoning may wait for a signature, in UTF-16 units; what comes behind it is given out rewritten. */
const maxWaiting = 1 << 20

type Field = "text" | "refusal" | "reasoning" | "arguments" | "transcript"

const fieldOf = (delta: PartDelta): Field | undefined => {
  switch (delta.type) {
    case "tool_call":
      return "arguments"
    case "audio":
      return "transcript"
    case "part":
      return undefined
    default:
      return delta.type
  }
}

const textOf = (delta: PartDelta): string | undefined => {
  switch (delta.type) {
    case "tool_call":
      return delta.arguments
    case "audio":
      return delta.transcript
    case "part":
      return undefined
    default:
      return delta.text
  }
}

const deltaOf = (field: Field, index: number, text: string): PartDelta => {
  switch (field) {
    case "arguments":
      return { type: "tool_call", index, arguments: text }
    case "transcript":
      return { type: "audio", index, transcript: text }
    default:
      return { type: field, index, text }
  }
}

const withText = (delta: PartDelta, text: string): PartDelta => {
  switch (delta.type) {
    case "tool_call":
      return { ...delta, arguments: text }
    case "audio":
      return { ...delta, transcript: text }
    case "part":
      return delta
    default:
      return { ...delta, text }
  }
}

/** Whether a delta says something beside its text. */
const saysMore = (delta: PartDelta): boolean => {
  switch (delta.type) {
    case "text":
      return delta.citations !== undefined
    case "tool_call":
      return delta.id !== undefined || delta.name !== undefined
    case "reasoning":
      return delta.signature !== undefined || delta.data !== undefined
    case "audio":
      return delta.data !== undefined || delta.id !== undefined || delta.expiresAt !== undefined
    default:
      return false
  }
}

/** A piece of reasoning on its way. */
class Thought implements Rewriter {
  readonly #rewriter: Rewriter
  /** What has come and was not given out. */
  #original = ""
  /** What would be given out for it; set from the first replacement on. */
  #rewritten: string | undefined
  /** Whether something was given out rewritten, because too much of it waited. */
  altered = false

  constructor(rewriting: Rewriting) {
    this.#rewriter = textRewriter(rewriting)
  }

  readonly push = (piece: string): string => {
    this.#original += piece
    return this.#settle(this.#rewriter.push(piece))
  }

  readonly end = (): string => {
    const text = this.#settle(this.#rewriter.end())
    const rest = this.#rewritten ?? ""
    this.#original = ""
    this.#rewritten = undefined
    return text + rest
  }

  readonly holds = (): boolean => this.#original !== ""

  /** The rest as it was, since its signature has come; unless that fits no more. */
  signed(): string {
    if (this.altered) return this.end()
    this.#rewriter.end()
    const rest = this.#original
    this.#original = ""
    this.#rewritten = undefined
    return rest
  }

  #settle(text: string): string {
    if (this.#rewritten === undefined && this.#original.startsWith(text)) {
      this.#original = this.#original.slice(text.length)
      return text
    }
    this.#rewritten = (this.#rewritten ?? "") + text
    if (this.#original.length <= maxWaiting) return ""
    const out = this.#rewritten
    this.#original = ""
    this.#rewritten = undefined
    this.altered = true
    return out
  }
}

interface OpenPart {
  readonly index: number
  readonly field: Field
  readonly rewriter: Rewriter
}

/** What a stream is rewritten by. */
export interface StreamRewriting extends Rewriting {
  /** Whether the answer's text is JSON, as it is where the request has a response schema. */
  readonly isJson: boolean
  /** Whether log probabilities are left out, which name each token. */
  readonly withoutLogprobs: boolean
  /** Why the stream must end, as soon as something was found that makes it so. */
  readonly stopped: () => GatewayError | undefined
}

class Answer {
  readonly #rewriting: StreamRewriting
  readonly #texts: Texts
  readonly #open = new Map<number, OpenPart>()
  /** What a chunk made here says of its answer. */
  #head: Pick<ChatChunk, "id" | "model" | "created"> = { id: "", model: "" }

  constructor(rewriting: StreamRewriting) {
    this.#rewriting = rewriting
    this.#texts = {
      text: (value) => rewriteText(rewriting, value),
      json: (value) => rewriteJson(rewriting, value)
    }
  }

  #held(): boolean {
    for (const { rewriter } of this.#open.values()) if (rewriter.holds()) return true
    return false
  }

  /** Ends the open part of a choice; gives what was held back of it. */
  #close(choice: number): PartDelta | undefined {
    const part = this.#open.get(choice)
    if (part === undefined) return undefined
    this.#open.delete(choice)
    const text = part.rewriter.end()
    return text === "" ? undefined : deltaOf(part.field, part.index, text)
  }

  #chunk(choice: number, delta: ReadonlyArray<PartDelta>): ChatChunk {
    return { ...this.#head, ...(choice === 0 ? {} : { choice }), delta }
  }

  /** Gives out everything that is held back. */
  flush(out: Array<ChatChunk>): void {
    for (const choice of Array.from(this.#open.keys())) {
      const rest = this.#close(choice)
      if (rest !== undefined) out.push(this.#chunk(choice, [rest]))
    }
  }

  take(chunk: ChatChunk, out: Array<ChatChunk>): void {
    this.#head = {
      id: chunk.id,
      model: chunk.model,
      ...(chunk.created === undefined ? {} : { created: chunk.created })
    }
    const choice = chunk.choice ?? 0
    // A chunk's source may tell what its deltas do not, such as that a block ends: it must not overtake held text.
    let changed = this.#held()
    const delta: Array<PartDelta> = []
    for (const each of chunk.delta) changed = this.#delta(choice, each, delta) || changed
    if (chunk.finishReason !== undefined) {
      const rest = this.#close(choice)
      if (rest !== undefined) {
        changed = true
        if (delta.length > 0) delta.push(rest)
        else out.push(this.#chunk(choice, [rest]))
      }
    }
    const { extensions, ...rest } = chunk
    const kept = extensions !== undefined && this.#rewriting.withoutLogprobs ? withoutLogprobs(extensions) : extensions
    if (!changed && kept === extensions) {
      out.push(chunk)
      return
    }
    const says = delta.length > 0 || chunk.delta.length === 0 || chunk.finishReason !== undefined ||
      chunk.usage !== undefined || chunk.droppedParams !== undefined || kept !== undefined
    if (says) out.push({ ...rest, ...(kept === undefined ? {} : { extensions: kept }), delta })
  }

  /** Takes one delta, and tells whether what goes on is other than what came. */
  #delta(choice: number, delta: PartDelta, kept: Array<PartDelta>): boolean {
    const field = fieldOf(delta)
    let part = this.#open.get(choice)
    let closed = false
    if (part !== undefined && (part.index !== delta.index || part.field !== field)) {
      // Deltas of one part follow each other, so the part before has ended.
      const rest = this.#close(choice)
      if (rest !== undefined) kept.push(rest)
      closed = rest !== undefined
      part = undefined
    }
    if (delta.type === "part") {
      const mapped = mapPart(delta.part, this.#texts)
      kept.push(mapped === delta.part ? delta : { ...delta, part: mapped })
      return closed || mapped !== delta.part
    }
    if (field === undefined) return closed
    if (part === undefined) {
      part = { index: delta.index, field, rewriter: this.#rewriter(field) }
      this.#open.set(choice, part)
    }
    const { rewriter } = part
    const came = textOf(delta)
    const heldBefore = rewriter.holds()
    const text = came === undefined ? "" : rewriter.push(came)
    let next = came === undefined || text === came ? delta : withText(delta, text)
    if (delta.type === "text" && delta.citations !== undefined) {
      const citations = mapCitations(delta.citations, this.#texts)
      if (citations !== delta.citations) next = { ...delta, text, citations }
    }
    if (delta.type === "reasoning" && delta.signature !== undefined && rewriter instanceof Thought) {
      const held = rewriter.signed()
      if (held !== "" || rewriter.altered) {
        const { signature, text: _text, ...rest } = delta
        if (text + held !== "") kept.push({ type: "reasoning", index: delta.index, text: text + held })
        // A signature is for the text as it was.
        if (!rewriter.altered) kept.push({ ...rest, signature })
        return true
      }
    }
    if (next === delta || text !== "" || saysMore(next)) kept.push(next)
    return closed || heldBefore || next !== delta
  }

  #rewriter(field: Field): Rewriter {
    if (field === "reasoning") return new Thought(this.#rewriting)
    return field === "arguments" || (field === "text" && this.#rewriting.isJson)
      ? jsonRewriter(this.#rewriting)
      : textRewriter(this.#rewriting)
  }
}

type Chunks = readonly [ChatChunk, ...Array<ChatChunk>]

/** The chunks of an answer, rewritten. Where they fail, what is held back is given out before the failure. */
export const rewriteStream = (
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  rewriting: StreamRewriting
): Stream.Stream<ChatChunk, GatewayError> =>
  Stream.transformPull(chunks, (pull) =>
    Effect.sync(() => {
      const answer = new Answer(rewriting)
      let ended: Effect.Effect<never, GatewayError | Cause.Done> | undefined
      const give = (out: ReadonlyArray<ChatChunk>): Effect.Effect<Chunks, GatewayError | Cause.Done> => {
        const stopped = rewriting.stopped()
        if (stopped !== undefined) return Effect.fail(stopped)
        const [first, ...others] = out
        return first === undefined ? next : Effect.succeed([first, ...others])
      }
      const step = pull.pipe(
        Effect.map((together) => {
          const out: Array<ChatChunk> = []
          for (const chunk of together) answer.take(chunk, out)
          return out
        }),
        Effect.catch((end) =>
          Effect.sync(() => {
            ended = Effect.fail(end)
            const out: Array<ChatChunk> = []
            answer.flush(out)
            return out
          })
        ),
        Effect.flatMap(give)
      )
      const next: Effect.Effect<Chunks, GatewayError | Cause.Done> = Effect.suspend(() => ended ?? step)
      return next
    }))
