/**
 * A session that runs: two lanes, what is done about the few frames that matter, and how it ends. Whoever ends it, the other
 * side is told with the same code and reason; where the gateway ends it, the caller is told why in an event first.
 */
import { Deferred, Effect, type Queue } from "effect"
import { fail, type GatewayError, InternalError, invalid, Overloaded } from "../../sdk/GatewayError.ts"
import type { ModelInfo } from "../../sdk/Model.ts"
import {
  type CallerEvent,
  mirrored,
  type ProviderEvent,
  type ProviderTexts,
  type RealtimeChannel,
  type RealtimeClose,
  type RealtimeFrame,
  type RealtimeUpstream,
  shortReason
} from "../../sdk/Realtime.ts"
import { estimateText } from "../TokenEstimate.ts"
import type { Charge, ChargedSession, Ended, RealtimeCharges } from "./RealtimeCharges.ts"
import type { RealtimeInterception } from "./RealtimeInterception.ts"
import { RealtimeLane, type Work } from "./RealtimeLane.ts"

/** How a session ended: what each side is told, and what went wrong, if anything did. */
export interface SessionEnd {
  readonly toCaller: RealtimeClose
  readonly toProvider: RealtimeClose
  readonly error?: GatewayError
}

/** What a session is built on. */
export interface SessionParts {
  readonly session: ChargedSession
  readonly upstream: RealtimeUpstream
  readonly caller: RealtimeChannel
  readonly charges: RealtimeCharges
  readonly interception: RealtimeInterception
  /** The model that a provider transcribes with, where the caller may use it. */
  readonly transcriber: (model: string) => Effect.Effect<ModelInfo, GatewayError>
}

const broken: RealtimeClose = { code: 1011, reason: "the connection to the provider broke" }
const gone: RealtimeClose = { code: 1001, reason: "the caller has gone" }
/** RFC 6455, section 7.4.1, and the IANA registry: the service restarts, and it is worth connecting again. */
const restarts: RealtimeClose = { code: 1012, reason: "the gateway stops; connect again" }
const finished: RealtimeClose = { code: 1000, reason: "" }
const leaves: RealtimeClose = { code: 1001, reason: "" }
const cut: RealtimeClose = { code: 1001, reason: "the gateway stops" }

/** Responses that were asked for and have not begun; a provider that refuses one does not say which. */
const maxAnnounced = 16
/** Texts that wait until they are whole, and pieces of each. */
const maxTexts = 64
const maxPieces = 16_384
/** Responses at the same time; OpenAI has one in the conversation, and some beside it where the caller asks for that. */
const maxRunning = 64
/** How long a cancelled response may take to tell what it consumed, before the session ends without that, ms. */
const lastWords = 1_000
/** What a conversation is that nobody has said anything in, tokens: instructions and tools. */
const emptyConversation = 500

/** A session that runs. */
export class RealtimeSession {
  readonly #parts: SessionParts
  readonly #callerWork: Queue.Queue<Work>
  readonly #providerWork: Queue.Queue<Work>
  readonly #ended: Deferred.Deferred<SessionEnd>
  readonly #breached = Deferred.makeUnsafe<SessionEnd>()
  readonly #toProvider: RealtimeLane
  readonly #toCaller: RealtimeLane
  readonly #running = new Map<string, Charge>()
  #announced: Array<Charge> = []
  /** Pieces of a text that wait until it is whole, by the text's place. */
  readonly #pieces = new Map<string, Array<RealtimeFrame>>()
  /** How the session ends as soon as no response is under way. */
  #leaving: SessionEnd | undefined
  #end: SessionEnd | undefined
  #maxOutputTokens: number | undefined
  #transcriber: Effect.Effect<ModelInfo, GatewayError> | undefined
  #contextTokens = emptyConversation
  #madeTokens = 0
  #isActive = true

  constructor(
    parts: SessionParts,
    callerWork: Queue.Queue<Work>,
    providerWork: Queue.Queue<Work>,
    ended: Deferred.Deferred<SessionEnd>
  ) {
    this.#parts = parts
    this.#callerWork = callerWork
    this.#providerWork = providerWork
    this.#ended = ended
    const { caller, upstream: { channel } } = parts
    this.#toProvider = new RealtimeLane(caller, channel, (frame) => this.#fromCaller(frame), this.#callerWork)
    this.#toCaller = new RealtimeLane(channel, caller, (frame) => this.#fromProvider(frame), this.#providerWork)
  }

  /** Begins to listen to both sides. */
  start(): void {
    const { caller, upstream: { channel } } = this.#parts
    channel.listen({
      frame: (frame) => this.#toCaller.offer(frame),
      drained: () => this.#toProvider.drained(),
      closed: (close) =>
        this.#toCaller.atEnd(() => {
          this.end({ toCaller: mirrored(close, broken), toProvider: close })
        })
    })
    caller.listen({
      frame: (frame) => this.#toProvider.offer(frame),
      drained: () => this.#toCaller.drained(),
      closed: (close) => this.end({ toCaller: close, toProvider: mirrored(close, gone) })
    })
  }

  /** Does what frames ask for, in both directions. */
  get workers(): readonly [Effect.Effect<never>, Effect.Effect<never>] {
    return [this.#toProvider.worker, this.#toCaller.worker]
  }

  /** Frames that have come from each side since this was last asked. */
  takeFrames(): { readonly caller: number; readonly provider: number } {
    return { caller: this.#toProvider.takeFrames(), provider: this.#toCaller.takeFrames() }
  }

  /** Whether anything has come since this was last asked. */
  takeActivity(): boolean {
    const isActive = this.#isActive
    this.#isActive = false
    return isActive
  }

  /** Whether a side does not read what is sent to it. */
  get isStuck(): boolean {
    return this.#toCaller.isFull || this.#toProvider.isFull
  }

  /** Asks both sides whether they are there, and ends the session where one is not. */
  ping(): void {
    const { caller, upstream: { channel } } = this.#parts
    if (!caller.ping()) this.end({ toCaller: { code: 1006, reason: "" }, toProvider: gone })
    else if (!channel.ping()) this.end({ toCaller: broken, toProvider: { code: 1006, reason: "" } })
  }

  /** The service stops: a response that is under way may finish. */
  stop(): void {
    this.#leave({ toCaller: restarts, toProvider: leaves })
  }

  /** The service's time is up. */
  cut(): void {
    this.end({ toCaller: cut, toProvider: leaves })
  }

  /** Ends the session with an error that the caller is told. */
  fail(error: GatewayError, code = 1008): void {
    if (this.#end !== undefined) return
    this.#tell(error)
    this.end({ toCaller: { code, reason: shortReason(error.message) }, toProvider: finished, error })
  }

  /** Ends the session, once. */
  end(end: SessionEnd): void {
    if (this.#end !== undefined) return
    this.#end = end
    Deferred.doneUnsafe(this.#ended, Effect.succeed(end))
  }

  /**
   * Closes both sides, after a last word on what the session has consumed. Gives what is to be written down of the responses
   * that were under way.
   */
  close(end: SessionEnd, durationMs: number): ReadonlyArray<Effect.Effect<void, GatewayError>> {
    this.#end ??= end
    const { caller, charges, upstream: { channel, protocol } } = this.#parts
    const left = [
      ...Array.from(this.#running.values(), charges.cutOff),
      ...this.#announced.map(charges.giveBack)
    ]
    this.#running.clear()
    this.#announced = []
    caller.send(protocol.summary(charges.summary(durationMs)))
    caller.close(end.toCaller)
    channel.close(end.toProvider)
    return left
  }

  // -------------------------------------------------------------------------------------------------------------------
  // From the caller
  // -------------------------------------------------------------------------------------------------------------------

  #fromCaller(frame: RealtimeFrame): Work | undefined {
    this.#isActive = true
    const { protocol } = this.#parts.upstream
    const event = protocol.callerEvent(frame)
    if (event === undefined) {
      this.#contextTokens += protocol.weight(frame)
      return undefined
    }
    if (event.maxOutputTokens !== undefined && !event.responds) this.#maxOutputTokens = event.maxOutputTokens
    const concerns = event.responds || event.texts.length > 0 || event.model !== undefined ||
      event.transcriptionModel !== undefined
    return concerns ? this.#heard(frame, event) : undefined
  }

  readonly #heard = (frame: RealtimeFrame, event: CallerEvent): Work =>
    Effect.catch(this.#checked(frame, event), (error) =>
      Effect.sync(() => {
        // A limit ends the session; what is wrong with an event concerns that event alone.
        if (!isLimit(error)) this.#tell(error, event.eventId)
        else this.#breach(error, event.eventId)
      }))

  readonly #checked = Effect.fnUntraced({ self: this }, function*(
    this: RealtimeSession,
    frame: RealtimeFrame,
    event: CallerEvent
  ): Effect.fn.Return<void, GatewayError> {
    const { interception } = this.#parts
    if (event.responds && this.#leaving !== undefined) return yield* fail(stopping)
    const model = event.model === undefined ? undefined : yield* this.#named(event.model)
    if (event.transcriptionModel !== undefined) yield* this.#parts.transcriber(event.transcriptionModel)
    const texts = yield* interception.callerTexts(event.texts)
    const isSame = texts.every((now, at) => now === event.texts[at]) && (model === undefined || model === event.model)
    for (const said of texts) this.#contextTokens += estimateText(said)
    if (event.responds) yield* this.#announce(event.maxOutputTokens ?? this.#maxOutputTokens)
    this.#toProvider.send(isSame ? frame : event.changed(texts, model))
  })

  /** The provider's name for the session's model, which is the only one that an event may name. */
  #named(model: string): Effect.Effect<string, GatewayError> {
    const { candidate, exchange } = this.#parts.session
    const own = candidate.model.model
    return model === own || model === candidate.model.id || model === exchange.modelAsked
      ? Effect.succeed(own)
      : Effect.fail(fail(invalid("session.model", `a session keeps its model; connect anew for another one`)))
  }

  #announce(maxOutputTokens: number | undefined): Effect.Effect<void, GatewayError> {
    return Effect.flatMap(this.#opened(maxOutputTokens), (charge) => {
      this.#announced.push(charge)
      const forgotten = this.#announced.length > maxAnnounced ? this.#announced.shift() : undefined
      return forgotten === undefined ? Effect.void : this.#parts.charges.giveBack(forgotten)
    })
  }

  #opened(maxOutputTokens: number | undefined): Effect.Effect<Charge, GatewayError> {
    const { charges, session: { candidate } } = this.#parts
    const before = this.#madeTokens
    return charges.open({
      model: candidate.model.id,
      inputTokens: Math.ceil(Math.min(this.#contextTokens, candidate.model.contextWindow ?? Infinity)),
      made: () => this.#madeTokens - before,
      ...(maxOutputTokens === undefined ? {} : { maxOutputTokens })
    })
  }

  // -------------------------------------------------------------------------------------------------------------------
  // From the provider
  // -------------------------------------------------------------------------------------------------------------------

  #fromProvider(frame: RealtimeFrame): Work | undefined {
    this.#isActive = true
    const { interception: { looksAtProvider }, upstream: { protocol } } = this.#parts
    if (this.#running.size > 0) this.#madeTokens += protocol.weight(frame)
    const event = protocol.providerEvent(frame, looksAtProvider)
    if (event === undefined) return undefined
    switch (event.type) {
      case "started":
        return this.#started(frame, event.responseId)
      case "ended":
        return this.#over(frame, event)
      case "transcribed":
        return this.#transcribed(frame, event)
      case "session":
        this.#maxOutputTokens = event.maxOutputTokens ?? this.#maxOutputTokens
        if (event.transcriptionModel !== undefined) {
          this.#transcriber = this.#parts.transcriber(event.transcriptionModel)
        }
        return undefined
      case "piece":
        return this.#hold(frame, event.of)
      case "texts":
        return this.#passTexts(frame, event.texts, event.of)
    }
  }

  #started(frame: RealtimeFrame, responseId: string): Work | undefined {
    if (this.#running.has(responseId)) return undefined
    if (this.#running.size >= maxRunning) return Effect.sync(() => this.fail(fail(tooMany), 1011))
    const announced = this.#announced.shift()
    if (announced !== undefined) {
      this.#running.set(responseId, announced)
      return undefined
    }
    // The provider has begun by itself, because the caller has stopped speaking.
    return Effect.matchEffect(this.#opened(this.#maxOutputTokens), {
      onSuccess: (charge) =>
        Effect.sync(() => {
          this.#running.set(responseId, charge)
          this.#toCaller.send(frame)
        }),
      onFailure: (error) =>
        Effect.sync(() => {
          this.#toCaller.send(frame)
          this.#unpaid = responseId
          this.#breach(error)
        })
    })
  }

  /** A response that no limit allowed, until it is over. */
  #unpaid: string | undefined

  #over(frame: RealtimeFrame, event: Ended): Work {
    const { charges } = this.#parts
    const charge = this.#running.get(event.responseId) ?? this.#announced.shift()
    this.#running.delete(event.responseId)
    if (this.#unpaid === event.responseId) this.#unpaid = undefined
    if (event.usage !== undefined) {
      const { cacheReadTokens = 0, inputAudioTokens = 0, inputImageTokens = 0, inputTokens } = event.usage
      this.#contextTokens = inputTokens + cacheReadTokens + inputAudioTokens + inputImageTokens +
        event.usage.outputTokens + (event.usage.outputAudioTokens ?? 0)
    }
    const settled = charge === undefined ? this.#recordedOnly(event) : charges.settle(charge, event)
    return Effect.matchEffect(settled, {
      onSuccess: () => this.#passTexts(frame, event.texts),
      onFailure: (error) => Effect.sync(() => this.fail(error, 1011))
    }).pipe(Effect.andThen(Effect.sync(() => this.#leaveIfIdle())))
  }

  /** A response that nobody had admitted has consumed what it has consumed. */
  #recordedOnly(event: Ended): Effect.Effect<void, GatewayError> {
    const { charges, session: { candidate } } = this.#parts
    return charges.unasked({ model: candidate.model.id, inputTokens: 0, made: () => 0 }, event)
  }

  #transcribed(frame: RealtimeFrame, { texts, usage }: Extract<ProviderEvent, { readonly type: "transcribed" }>): Work {
    const { charges, session: { candidate } } = this.#parts
    const paid = usage === undefined
      ? Effect.void
      : Effect.flatMap(
        this.#transcriber ?? Effect.succeed(withoutPrices(candidate.model)),
        (model) => charges.transcribed(usage, model)
      )
    return Effect.andThen(
      this.#passTexts(frame, texts),
      Effect.catch(paid, (error) => Effect.sync(() => this.#breach(error)))
    )
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Texts
  // -------------------------------------------------------------------------------------------------------------------

  #hold(frame: RealtimeFrame, of: string): Work {
    const held = this.#pieces.get(of)
    if (held === undefined ? this.#pieces.size >= maxTexts : held.length >= maxPieces) {
      return Effect.sync(() => this.fail(fail(tooLong), 1011))
    }
    if (held === undefined) this.#pieces.set(of, [frame])
    else held.push(frame)
    return Effect.void
  }

  readonly #passTexts = (frame: RealtimeFrame, { changed, texts }: ProviderTexts, of?: string): Work =>
    Effect.match(this.#parts.interception.providerTexts(texts), {
      onSuccess: (passed) => {
        const isSame = passed.every((now, at) => now === texts[at])
        const pieces = of === undefined ? [] : this.#pieces.get(of) ?? []
        if (of !== undefined) this.#pieces.delete(of)
        // Pieces of what was changed would give it away; the whole text comes all the same.
        if (isSame) { for (const piece of pieces) this.#toCaller.send(piece) }
        this.#toCaller.send(isSame ? frame : changed(passed))
      },
      onFailure: (error) => {
        if (of !== undefined) this.#pieces.delete(of)
        this.#tell(error)
        // Its sound is under way already; what is left of it is not to come.
        for (const id of this.#running.keys()) this.#cancel(id)
        if (of === undefined) this.#toCaller.send(changed(texts.map(() => "")))
      }
    })

  // -------------------------------------------------------------------------------------------------------------------
  // The end
  // -------------------------------------------------------------------------------------------------------------------

  #tell(error: GatewayError, eventId?: string): void {
    const { caller, upstream: { protocol } } = this.#parts
    caller.send(protocol.error(error, eventId))
  }

  #cancel(responseId: string): void {
    const { channel, protocol } = this.#parts.upstream
    channel.send(protocol.cancel(responseId))
  }

  /** A limit is used up: what runs is cancelled, and then the session is over. */
  #breach(error: GatewayError, eventId?: string): void {
    this.#tell(error, eventId)
    const running = [...this.#running.keys(), ...this.#unpaid === undefined ? [] : [this.#unpaid]]
    for (const id of running) this.#cancel(id)
    const end = { toCaller: { code: 1008, reason: shortReason(error.message) }, toProvider: finished, error }
    this.#leave(end)
    Deferred.doneUnsafe(this.#breached, Effect.succeed(end))
  }

  #leave(end: SessionEnd): void {
    this.#leaving ??= end
    this.#leaveIfIdle()
  }

  #leaveIfIdle(): void {
    const isIdle = this.#running.size === 0 && this.#unpaid === undefined && this.#announced.length === 0
    if (this.#leaving !== undefined && isIdle) this.end(this.#leaving)
  }

  /** Ends a session that waits for the end of a response after a breach, when it has waited long enough. */
  readonly impatience: Effect.Effect<void> = Effect.suspend(() =>
    Effect.flatMap(
      Deferred.await(this.#breached),
      (end) => Effect.andThen(Effect.sleep(lastWords), Effect.sync(() => this.end(end)))
    )
  )
}

const tooLong = new InternalError({
  message: "the model's answer is too long to be held back until it is checked"
})
const tooMany = new InternalError({ message: `the provider has more than ${maxRunning} responses under way` })
const stopping = new Overloaded({ message: "the session is about to end; connect again for another response" })

/** Whether an error says that a limit of the gateway's is used up, or cannot be asked. */
const isLimit = ({ code }: GatewayError): boolean =>
  code === "rate_limited" || code === "budget_exceeded" || code === "store_unavailable"

/** A model by its name alone: its prices are those of another kind of work. */
const withoutPrices = ({ id, model, provider, status }: ModelInfo): ModelInfo => ({ id, model, provider, status })
