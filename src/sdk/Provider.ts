/**
 * Providers: one of the four kinds of plugin. A provider is a plain record of what it can do, registered under its slug
 * for as long as the scope of its Layer lives; there can be many instances of one kind (`openai`, `azure-eu`, `groq`).
 *
 * A provider translates and transports. Timers, retries, fallback, validation and accounting belong to the pipeline.
 */
import { Context, Effect, Layer, Schema, type Scope, type Stream } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "./Chat.ts"
import type { EmbeddingRequest, EmbeddingResponse } from "./Embedding.ts"
import type { ImageChunk, ImageRequest, ImageResponse } from "./Image.ts"
import { ProviderErrorKind } from "./GatewayError.ts"
import type { Capability, ModelInfo, Prices } from "./Model.ts"
import type { SpeechChunk, SpeechRequest } from "./Speech.ts"
import type { RealtimeRequest, RealtimeUpstream } from "./Realtime.ts"
import type { ResolvedTool } from "./Tool.ts"
import type { Transcription, TranscriptionChunk, TranscriptionResponse } from "./Transcription.ts"
import type { VideoRequest, VideoVariant } from "./Video.ts"

/** What went wrong in one call to one provider. The only error that a provider fails with. */
export class ProviderError extends Schema.TaggedError<ProviderError>()("ProviderError", {
  provider: Schema.String,
  kind: ProviderErrorKind,
  /** The upstream's words, bounded and without secrets. */
  message: Schema.String,
  status: Schema.optionalKey(Schema.Int),
  code: Schema.optionalKey(Schema.String),
  type: Schema.optionalKey(Schema.String),
  /** The request field that the upstream complained about. */
  field: Schema.optionalKey(Schema.String),
  retryAfterMs: Schema.optionalKey(Schema.Finite),
  /** The upstream's request id, for its support. */
  upstreamRequestId: Schema.optionalKey(Schema.String),
  /** Set where a timer of the transport's own ran out, with its limit in ms. */
  timeout: Schema.optionalKey(Schema.Struct({ phase: Schema.Literal("connect"), limitMs: Schema.Finite })),
  /**
   * Set where the provider was not called because its breaker is `open`, or `half_open` with another call as its probe; and
   * `opened` on the failure of a call that went out, where the breaker is open after it. Either way another try now makes
   * no sense.
   */
  breaker: Schema.optionalKey(Schema.Literals(["open", "half_open", "opened"])),
  /** Set where the request was refused before it left the gateway, because the target has no form for it. */
  refused: Schema.optionalKey(Schema.Boolean),
  /** Set where the provider has said that what it worked on is over, so that asking again makes no sense. */
  isFinal: Schema.optionalKey(Schema.Boolean)
}) {}

/** What a codec says of a failure; the provider adds its slug. */
export type Failure = Omit<ConstructorParameters<typeof ProviderError>[0], "provider">

/** Whether the provider was kept from being called by its breaker. */
export const isHeldBack = ({ breaker }: Pick<Failure, "breaker">): boolean =>
  breaker === "open" || breaker === "half_open"

/** A model that a provider says it has. What it does not tell is left out. */
export interface DiscoveredModel {
  readonly model: string
  readonly displayName?: string
  readonly capabilities?: ReadonlyArray<Capability>
  readonly contextWindow?: number
  readonly maxOutputTokens?: number
  readonly prices?: Prices
  readonly created?: number
}

/** One chat call to a provider: the request with its tools resolved, and the model it is for. */
export interface ChatCall {
  readonly request: Omit<ChatRequest, "tools"> & { readonly tools?: ReadonlyArray<ResolvedTool> }
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** One call for vectors to a provider. */
export interface EmbedCall {
  readonly request: EmbeddingRequest
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** One call for pictures to a provider. */
export interface ImageCall {
  readonly request: ImageRequest
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** One request for a video to a provider. */
export interface VideoCall {
  readonly request: VideoRequest
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** One call for speech to a provider. */
export interface SpeechCall {
  readonly request: SpeechRequest
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** One call for a transcript to a provider. */
export interface TranscriptionCall {
  readonly request: Transcription
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** A video that a provider has begun to work on. */
export interface SubmittedVideo {
  /** The provider's own id. */
  readonly id: string
  /** Which of several keys it belongs to, as `UpstreamHead.key`. */
  readonly key?: string
  /** Parameters that the provider has no form for, in the native spelling. */
  readonly dropped?: ReadonlyArray<string>
}

/** A video at its provider. */
export interface VideoReference {
  readonly id: string
  readonly key?: string
  readonly model: ModelInfo
  /** How long the connection may take to open, ms. */
  readonly connectTimeout: number
}

/** How a video stands; one that came to nothing is a failure, with `isFinal`. */
export interface VideoProgress {
  readonly status: "queued" | "in_progress" | "completed"
  /** Percent. */
  readonly progress?: number
  /** How long the video is, where the provider tells. */
  readonly seconds?: number
  readonly size?: string
}

/** One call for a realtime session. */
export interface RealtimeCall {
  readonly request: RealtimeRequest
  /** The model to call; `model.model` is what the provider calls it. */
  readonly model: ModelInfo
  /** How long it may take until the connection stands, ms. */
  readonly connectTimeout: number
  /** The largest frame that is taken of the provider, bytes. */
  readonly maxFrameBytes: number
  /** Set where no other candidate is left, so that an open circuit is no reason not to try. */
  readonly force?: boolean
}

/** What one call for vectors may hold at most; larger requests go out in several. */
export interface EmbedLimits {
  readonly inputs: number
  /** Tokens of all inputs together. */
  readonly tokens: number
}

/** A configured provider. An operation that it lacks is not there. */
export interface Provider {
  readonly slug: string
  /** The kind of plugin, such as `openai`; it decides which catalogue entries apply. */
  readonly kind: string
  /** The protocol that it speaks, one of the folders under `wire/`. */
  readonly wire: string
  /** Where it is, for catalogues that tell hosts apart; without credentials. */
  readonly baseUrl?: string
  /** Whether models that nobody knows may be called; absent: only until discovery has answered. */
  readonly unlistedModels?: "allow" | "deny"
  /** How often to ask for the models, ms; absent: the registry's default. */
  readonly discoveryInterval?: number
  /** What every model of this provider can do, where the catalogue does not know the model. */
  readonly defaultCapabilities?: ReadonlyArray<Capability>
  readonly discover?: Effect.Effect<ReadonlyArray<DiscoveredModel>, ProviderError>
  readonly chat?: (call: ChatCall) => Effect.Effect<ChatResponse, ProviderError>
  /** The upstream's socket is open for exactly as long as the stream runs. */
  readonly streamChat?: (call: ChatCall) => Stream.Stream<ChatChunk, ProviderError>
  /** How many tokens the provider counts in the call's prompt; nothing is answered, and nothing is charged. */
  readonly countTokens?: (call: ChatCall) => Effect.Effect<number, ProviderError>
  /** Vectors for all inputs of the call, in their order and in the encoding asked for, or as numbers. */
  readonly embed?: (call: EmbedCall) => Effect.Effect<EmbeddingResponse, ProviderError>
  /** Pictures, as many as the call asks for; the usage tells tokens where the provider counts them. */
  readonly generateImage?: (call: ImageCall) => Effect.Effect<ImageResponse, ProviderError>
  /** The same in a stream. The upstream's socket is open for exactly as long as it runs. */
  readonly streamImage?: (call: ImageCall) => Stream.Stream<ImageChunk, ProviderError>
  /** Begins a video. Made once for a request: a provider that has answered with an id is not asked for another one. */
  readonly submitVideo?: (call: VideoCall) => Effect.Effect<SubmittedVideo, ProviderError>
  readonly pollVideo?: (video: VideoReference) => Effect.Effect<VideoProgress, ProviderError>
  /** The content of a video that is completed. */
  readonly fetchVideo?: (video: VideoReference, variant: VideoVariant) => Stream.Stream<Uint8Array, ProviderError>
  /** Ends the work on a video that nobody wants any more. */
  readonly cancelVideo?: (video: VideoReference) => Effect.Effect<void, ProviderError>
  /** What it may have of a video; absent: the video alone. */
  readonly videoVariants?: ReadonlyArray<VideoVariant>
  /**
   * Speech in pieces as it comes, then `done`; whether the provider sends bytes or events is its own business. The upstream's
   * socket is open for exactly as long as the stream runs.
   */
  readonly speak?: (call: SpeechCall) => Stream.Stream<SpeechChunk, ProviderError>
  /** A transcript, in the form that the call asks for; the usage tells what the provider counted, where it did. */
  readonly transcribe?: (call: TranscriptionCall) => Effect.Effect<TranscriptionResponse, ProviderError>
  /** The same in a stream. The upstream's socket is open for exactly as long as it runs. */
  readonly streamTranscribe?: (call: TranscriptionCall) => Stream.Stream<TranscriptionChunk, ProviderError>
  /** Opens a realtime session. The connection is the scope's, which breaks it off where nobody has closed it. */
  readonly realtime?: (call: RealtimeCall) => Effect.Effect<RealtimeUpstream, ProviderError, Scope.Scope>
  /** Absent: what today's providers take, 256 inputs and 250,000 tokens. */
  readonly embedLimits?: EmbedLimits
}

/** Two providers want the same slug. */
export class DuplicateProvider extends Schema.TaggedError<DuplicateProvider>()("DuplicateProvider", {
  slug: Schema.String
}) {
  override get message() {
    return `a provider named "${this.slug}" is registered already; give one of them another slug`
  }
}

/** The registered providers, by slug. */
export class ProviderRegistry extends Context.Service<ProviderRegistry, {
  /** Adds a provider for as long as the scope lives. */
  readonly register: (provider: Provider) => Effect.Effect<void, DuplicateProvider, Scope.Scope>
  /** The provider of that slug, if it is registered now. */
  readonly get: (slug: string) => Provider | undefined
  /** All providers, in the order of their registration. */
  readonly all: () => ReadonlyArray<Provider>
}>()("llm-gateway/sdk/ProviderRegistry") {
  static readonly layer: Layer.Layer<ProviderRegistry> = Layer.sync(ProviderRegistry, () => {
    const providers = new Map<string, Provider>()
    return ProviderRegistry.of({
      register: (provider) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (providers.has(provider.slug)) return Effect.fail(new DuplicateProvider({ slug: provider.slug }))
            providers.set(provider.slug, provider)
            return Effect.void
          }),
          () => Effect.sync(() => providers.delete(provider.slug))
        ),
      get: (slug) => providers.get(slug),
      all: () => Array.from(providers.values())
    })
  })
}

/** Makes the Layer that registers a provider: `make` builds it, its scope is the provider's life. */
export const layer = <E, R>(
  make: Effect.Effect<Provider, E, R>
): Layer.Layer<never, E | DuplicateProvider, ProviderRegistry | Exclude<R, Scope.Scope>> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const registry = yield* ProviderRegistry
    yield* registry.register(yield* make)
  }))
