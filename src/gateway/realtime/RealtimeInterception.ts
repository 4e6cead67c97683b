/**
 * Interceptors over the texts of a session: what the caller writes, before it goes on, and what the model says, as soon as its
 * text is whole. Sound cannot be held back until it is checked, or there would be no conversation.
 */
import { Effect, Stream } from "effect"
import type { ChatRequest, ChatResponse } from "../../sdk/Chat.ts"
import { chunksOf, collect } from "../../sdk/ChatStream.ts"
import { text } from "../../sdk/Content.ts"
import { fail, type GatewayError, RequestBlocked } from "../../sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../../sdk/Interceptor.ts"
import { interceptRequest, interceptStream } from "../Interception.ts"
import { miscounted, textsOf } from "../Preparation.ts"

/** Texts whose verdict is remembered, since events tell the same one several times. */
const maxRemembered = 256

const miscountedRequest = ({ name }: Interceptor): GatewayError =>
  fail(
    new RequestBlocked({
      message: `the event was blocked by ${name}: its texts came back in another number`,
      interceptor: name
    })
  )

/** The interceptors of one session. */
export class RealtimeInterception {
  readonly #active: ReadonlyArray<Interceptor>
  readonly #context: InterceptorContext
  readonly #model: string
  readonly #verdicts = new Map<string, string>()
  /** Whether anyone looks at what the caller writes. */
  readonly looksAtCaller: boolean
  /** Whether anyone looks at what the model says. */
  readonly looksAtProvider: boolean

  constructor(active: ReadonlyArray<Interceptor>, context: InterceptorContext, model: string) {
    this.#active = active
    this.#context = context
    this.#model = model
    this.looksAtCaller = active.some(({ pre }) => pre !== undefined)
    this.looksAtProvider = active.some(({ post, stream }) => post !== undefined || stream !== undefined)
  }

  /** The caller's texts as the interceptors leave them. Fails with `request_blocked`. */
  readonly callerTexts = (texts: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>, GatewayError> => {
    const first = this.#active.find(({ pre }) => pre !== undefined)
    if (first === undefined || texts.length === 0) return Effect.succeed(texts)
    return Effect.flatMap(
      interceptRequest(this.#active, this.#shown(texts), this.#context),
      ({ messages }) => {
        const passed = messages.flatMap(({ content }) => textsOf(content))
        return passed.length === texts.length ? Effect.succeed(passed) : Effect.fail(miscountedRequest(first))
      }
    )
  }

  /** The provider's texts as the interceptors leave them. Fails with `response_blocked`. */
  readonly providerTexts = (texts: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>, GatewayError> => {
    // Before anything is looked up, so that no verdict goes between its look-up and its use.
    if (this.#verdicts.size + 2 * texts.length > maxRemembered) this.#verdicts.clear()
    const unknown = texts.filter((said) => !this.#verdicts.has(said))
    const judged = unknown.length === 0 ? Effect.void : this.#judge(Array.from(new Set(unknown)))
    return Effect.map(judged, () => texts.map((said) => this.#verdicts.get(said) ?? said))
  }

  #judge(texts: ReadonlyArray<string>): Effect.Effect<void, GatewayError> {
    const looking = this.#active.filter(({ post, stream }) => post !== undefined || stream !== undefined)
    const [first] = looking
    if (first === undefined) return Effect.void
    const said: ChatResponse = {
      id: this.#context.requestId,
      model: this.#model,
      content: texts.map(text),
      finishReason: "stop"
    }
    const chunks = interceptStream(looking, Stream.fromIterable(chunksOf(said)), this.#shown([]), this.#context)
    return Effect.flatMap(collect(chunks), ({ content }) => {
      const passed = textsOf(content)
      if (passed.length !== texts.length) return Effect.fail(miscounted(first))
      for (const [at, before] of texts.entries()) {
        const after = passed[at] ?? before
        this.#verdicts.set(before, after)
        // What was changed comes by once more where the provider tells it back.
        this.#verdicts.set(after, after)
      }
      return Effect.void
    })
  }

  #shown(texts: ReadonlyArray<string>): ChatRequest {
    return { model: this.#model, messages: [{ role: "user", content: texts.map(text) }] }
  }
}
