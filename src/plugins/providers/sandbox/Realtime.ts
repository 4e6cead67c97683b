/**
 * The sandbox's realtime sessions, in OpenAI's protocol: it says back the sound that it hears, hears always the same words in it,
 * and counts as OpenAI does. A response begins when it is asked for, or half a second after the caller has fallen silent (server
 * VAD, which is on until `session.update` turns it off).
 */
import { Effect, Queue, type Scope } from "effect"
import type {
  RealtimeChannel,
  RealtimeClose,
  RealtimeFrame,
  RealtimeListener,
  RealtimeUpstream
} from "../../../sdk/Realtime.ts"
import { filled, isJson, isList, object, parseJson } from "../../../wire/Json.ts"
import { openAiRealtime } from "../../../wire/openai/realtime/OpenAiRealtime.ts"

/** What the sandbox hears. */
const heard = "Hello, sandbox."
/** What it says where it has heard nothing. */
const nothing = "You said nothing."

/** Silence after which a turn is over, ms. */
const silence = 500
/** Bytes of sound that are remembered of one turn, in base64; what is longer is not said back. */
const maxSound = 16 * 1024 * 1024
/** Bytes of 24 kHz, 16 bit sound for a token: ten a second are heard, and twenty said. */
const bytesHeard = 4_800
const bytesSaid = 2_400

const encoder = new TextEncoder()
const decoder = new TextDecoder()

type Event = Readonly<Record<string, unknown>>

const tokensOf = (text: string): number => Math.ceil(text.length / 4)

const soundTokens = (pieces: ReadonlyArray<string>, bytesToken: number): number =>
  Math.ceil(pieces.reduce((sum, { length }) => sum + length, 0) * 3 / 4 / bytesToken)

/** What the provider keeps of a conversation. */
class Conversation {
  readonly #say: (event: Event) => void
  readonly #model: string
  #session: Event
  #ids = 0
  /** Sound since the last turn, in the pieces in which it came. */
  #buffer: Array<string> = []
  #size = 0
  /** The sound of the last turn. */
  #sound: ReadonlyArray<string> = []
  #text: string | undefined
  #textTokens = 0
  #audioTokens = 0
  #cachedText = 0
  #cachedAudio = 0

  constructor(model: string, say: (event: Event) => void) {
    this.#say = say
    this.#model = model
    this.#session = {
      id: this.#id("sess"),
      object: "realtime.session",
      type: "realtime",
      model,
      output_modalities: ["audio"],
      audio: {
        input: { turn_detection: { type: "server_vad" }, transcription: { model: "realtime" } },
        output: { voice: "sandbox" }
      }
    }
    this.#tell("session.created", { session: this.#session })
  }

  /** Whether a turn begins by itself when the caller falls silent. */
  get isWaiting(): boolean {
    const input = object(object(this.#session["audio"])?.["input"])
    return this.#buffer.length > 0 && isJson(input?.["turn_detection"])
  }

  /** The caller has fallen silent. */
  fallSilent(): void {
    this.#tell("input_audio_buffer.speech_stopped", { audio_end_ms: 0 })
    this.#commit()
    this.#respond({})
  }

  hear(event: Event): void {
    switch (event["type"]) {
      case "session.update":
        this.#session = { ...this.#session, ...object(event["session"]), model: this.#model }
        return this.#tell("session.updated", { session: this.#session })
      case "input_audio_buffer.append":
        return this.#append(filled(event["audio"]) ?? "")
      case "input_audio_buffer.commit":
        return this.#buffer.length === 0
          ? this.#refuse("the buffer is empty", "input_audio_buffer_commit_empty")
          : this.#commit()
      case "input_audio_buffer.clear":
        this.#buffer = []
        this.#size = 0
        return this.#tell("input_audio_buffer.cleared", {})
      case "conversation.item.create":
        return this.#add(object(event["item"]) ?? {})
      case "response.create":
        return this.#respond(object(event["response"]) ?? {})
      case "response.cancel":
        return this.#refuse("no response is under way", "response_cancel_not_active")
      default:
        return this.#refuse("the sandbox does not know this event", "invalid_value")
    }
  }

  refuseUnreadable(): void {
    this.#refuse("the event is not valid JSON", "invalid_json")
  }

  #id(kind: string): string {
    return `${kind}_sandbox${++this.#ids}`
  }

  #tell(type: string, members: Event): void {
    this.#say({ type, event_id: this.#id("event"), ...members })
  }

  #refuse(message: string, code: string): void {
    this.#tell("error", { error: { type: "invalid_request_error", code, message, param: null, event_id: null } })
  }

  #append(audio: string): void {
    if (this.#buffer.length === 0) this.#tell("input_audio_buffer.speech_started", { audio_start_ms: 0 })
    this.#size += audio.length
    if (this.#size <= maxSound) this.#buffer.push(audio)
  }

  #commit(): void {
    const item = this.#id("item")
    this.#sound = this.#buffer
    this.#buffer = []
    this.#size = 0
    const tokens = soundTokens(this.#sound, bytesHeard)
    this.#audioTokens += tokens
    this.#tell("input_audio_buffer.committed", { item_id: item, previous_item_id: null })
    const content = [{ type: "input_audio", transcript: null }]
    this.#tell("conversation.item.added", { item: { id: item, type: "message", role: "user", content } })
    this.#tell("conversation.item.input_audio_transcription.completed", {
      item_id: item,
      content_index: 0,
      transcript: heard,
      usage: {
        type: "tokens",
        input_tokens: tokens,
        output_tokens: tokensOf(heard),
        total_tokens: tokens + tokensOf(heard),
        input_token_details: { text_tokens: 0, audio_tokens: tokens }
      }
    })
  }

  #add(item: Event): void {
    const content = isList(item["content"]) ? item["content"] : []
    const text = content.flatMap((part) => isJson(part) ? filled(part["text"]) ?? [] : []).join(" ")
    this.#textTokens += tokensOf(text)
    if (text !== "") this.#text = text
    this.#tell("conversation.item.added", { item: { id: this.#id("item"), ...item } })
  }

  #respond(asked: Event): void {
    const response = this.#id("resp")
    const item = this.#id("item")
    const place = { response_id: response, item_id: item, output_index: 0, content_index: 0 }
    const shown = { id: response, object: "realtime.response", status: "in_progress", output: [] }
    const modalities = asked["output_modalities"] ?? this.#session["output_modalities"]
    const isText = isList(modalities) && modalities.includes("text")
    const said = this.#text ?? (this.#sound.length > 0 ? heard : nothing)
    this.#tell("response.created", { response: shown })
    this.#tell("response.output_item.added", { response_id: response, output_index: 0, item: { id: item } })
    const sound = isText ? [] : this.#sound
    for (const delta of sound) this.#tell("response.output_audio.delta", { ...place, delta })
    const name = isText ? "response.output_text" : "response.output_audio_transcript"
    for (const delta of said.match(/\S+\s*/g) ?? []) this.#tell(`${name}.delta`, { ...place, delta })
    const whole = isText ? { text: said } : { transcript: said }
    if (!isText) this.#tell("response.output_audio.done", place)
    this.#tell(`${name}.done`, { ...place, ...whole })
    const content = [{ type: isText ? "output_text" : "output_audio", ...whole }]
    const message = { id: item, type: "message", role: "assistant", status: "completed", content }
    this.#tell("response.output_item.done", { response_id: response, output_index: 0, item: message })
    const usage = this.#usage(tokensOf(said), soundTokens(sound, bytesSaid))
    this.#tell("response.done", { response: { ...shown, status: "completed", output: [message], usage } })
    this.#text = undefined
    this.#sound = []
  }

  /** Each response reads the whole conversation again; what the one before has read comes from the cache. */
  #usage(textOut: number, audioOut: number): Event {
    const usage = {
      total_tokens: this.#textTokens + this.#audioTokens + textOut + audioOut,
      input_tokens: this.#textTokens + this.#audioTokens,
      output_tokens: textOut + audioOut,
      input_token_details: {
        text_tokens: this.#textTokens,
        audio_tokens: this.#audioTokens,
        image_tokens: 0,
        cached_tokens: this.#cachedText + this.#cachedAudio,
        cached_tokens_details: { text_tokens: this.#cachedText, audio_tokens: this.#cachedAudio, image_tokens: 0 }
      },
      output_token_details: { text_tokens: textOut, audio_tokens: audioOut }
    }
    this.#cachedText = this.#textTokens
    this.#cachedAudio = this.#audioTokens
    this.#textTokens += textOut
    this.#audioTokens += audioOut
    return usage
  }
}

/** The provider's end of a connection within this process. */
class SandboxChannel implements RealtimeChannel {
  readonly #heard: Queue.Queue<RealtimeFrame>
  #listener: RealtimeListener | undefined
  #waiting: Array<RealtimeFrame> = []
  #isPaused = false
  #isClosed = false

  constructor(heard: Queue.Queue<RealtimeFrame>) {
    this.#heard = heard
  }

  listen(listener: RealtimeListener): void {
    this.#listener = listener
    this.resume()
  }

  send(frame: RealtimeFrame): boolean {
    if (!this.#isClosed) Queue.offerUnsafe(this.#heard, frame)
    return true
  }

  /** Has the caller hear a frame, as soon as it listens. */
  say(event: Event): void {
    this.#waiting.push({ data: encoder.encode(JSON.stringify(event)), isText: true })
    this.#deliver()
  }

  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    this.#isPaused = false
    this.#deliver()
  }

  ping(): boolean {
    return true
  }

  close(close: RealtimeClose): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#listener?.closed(close)
  }

  #deliver(): void {
    while (this.#listener !== undefined && !this.#isPaused && !this.#isClosed) {
      const frame = this.#waiting.shift()
      if (frame === undefined) break
      this.#listener.frame(frame)
    }
  }
}

const converse = (heard: Queue.Queue<RealtimeFrame>, conversation: Conversation): Effect.Effect<never> =>
  Effect.forever(Effect.suspend(() => {
    const next = conversation.isWaiting
      ? Effect.timeoutOrElse(Queue.take(heard), { duration: silence, orElse: () => Effect.undefined })
      : Queue.take(heard)
    return Effect.map(next, (frame) => {
      if (frame === undefined) {
        conversation.fallSilent()
        return
      }
      const event = parseJson(decoder.decode(frame.data))
      if (isJson(event)) conversation.hear(event)
      else conversation.refuseUnreadable()
    })
  }))

/** Opens a session; it lasts as long as the scope. */
export const open: (model: string) => Effect.Effect<RealtimeUpstream, never, Scope.Scope> = Effect.fnUntraced(
  function*(model) {
    const heard = yield* Queue.unbounded<RealtimeFrame>()
    const channel = new SandboxChannel(heard)
    const conversation = new Conversation(model, (event) => channel.say(event))
    yield* Effect.forkScoped(converse(heard, conversation))
    return { channel, protocol: openAiRealtime }
  }
)
