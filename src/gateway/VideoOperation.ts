/**
 * Video generation, as the stages see it: one whole answer, which takes minutes. A video is submitted, asked after until it is
 * finished, and then brought into the file storage.
 *
 * Where the request is a job's, that a video is about to be submitted is written down before, and the provider's id of it
 * right after; whoever goes on with the job asks after that id and submits nothing. Between the two lies the one moment
 * in which nobody can know whether the provider has it: a job that was cut off there fails.
 */
import { Cause, Effect, Exit, Option, Result, Schedule, Schema, Stream } from "effect"
import { CurrentCaller, CurrentRequest, type Repeatable } from "../sdk/Caller.ts"
import { text } from "../sdk/Content.ts"
import { type FileStorage, fileUrl, noFiles } from "../sdk/FileStorage.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import type { Prices } from "../sdk/Model.ts"
import { dearestVariant } from "../sdk/Pricing.ts"
import { ProviderError, type VideoProgress, type VideoReference } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { VideoFile, VideoRequest, VideoResponse, VideoVariant } from "../sdk/Video.ts"
import { gatewayError } from "./Failure.ts"
import { estimateText, mostOfText } from "./TokenEstimate.ts"
import type { Candidate } from "./Plan.ts"
import type { WholeOperation } from "./WholeOperation.ts"

/** A video at its provider, with the way to its content. */
export interface MadeVideo {
  readonly usage: Usage
  readonly response: VideoResponse
  readonly variants: ReadonlyArray<VideoVariant>
  readonly open: (variant: VideoVariant) => Stream.Stream<Uint8Array, ProviderError>
}

/** How long a request for a video may last, ms. */
const lastsMs = 60 * 60_000
/** What models make where the request does not say, seconds, and what it could be at most. */
const usualSeconds = 4
const mostSeconds = 20
/** Failures in a row of asking after a video, before it is given up. */
const patience = 10
/** How long a provider may take to cancel a video, ms. */
const cancelPatience = 5_000

/** Pauses between two looks: half a second at first, ten at most. */
const looks = Schedule.min([Schedule.exponential(500, 1.5), Schedule.spaced(10_000)])
/** What may go well in a moment; a variant that the provider does not have never will. */
const isPassing = ({ reason }: GatewayError): boolean =>
  reason._tag === "ProviderFailed" ? reason.kind === "transient" : reason._tag === "StoreUnavailable"

const again = { schedule: Schedule.exponential(1_000), times: 3 }

/** What is kept of a video that was submitted: whose it is, and its id there. */
const Handle = Schema.fromJsonString(Schema.Struct({
  /** Canonical id. */
  model: Schema.String,
  id: Schema.String,
  /** Which of the provider's keys it belongs to. */
  key: Schema.optionalKey(Schema.String),
  dropped: Schema.optionalKey(Schema.Array(Schema.String))
}))
type Handle = typeof Handle.Type
const encodeHandle = Schema.encodeSync(Handle)
const decodeHandle = Schema.decodeOption(Handle)

const made = (seconds: number, variant: string | undefined): Usage => ({
  inputTokens: 0,
  outputTokens: 0,
  outputVideoMs: Math.round(seconds * 1_000),
  ...(variant === undefined ? {} : { variant })
})

const drawn = ({ seconds, size }: VideoRequest, otherwise: number, prices?: Prices): Usage =>
  made(seconds ?? otherwise, size ?? dearestVariant(prices?.outputVideoSecond))

const failure = (candidate: Candidate, message: string, more: Partial<ProviderError> = {}) =>
  new ProviderError({ kind: "caller", ...more, provider: candidate.provider.slug, message })

/** An attempt that is none: the video is at another provider, and that one's failure is the request's. */
const elsewhere = (candidate: Candidate) =>
  failure(candidate, "the video was begun by another provider, which is not there any more", { refused: true })

const notKept = (candidate: Candidate) =>
  failure(candidate, "the gateway could not keep the id of the video", { kind: "protocol" })

/** The calls of one request. */
class VideoCalls {
  readonly #request: VideoRequest
  /** The canonical id of the model that has begun to work. */
  #begun: string | undefined

  constructor(request: VideoRequest) {
    this.#request = request
  }

  readonly call = (
    candidate: Candidate,
    turn: { readonly connectTimeout: number; readonly force: boolean }
  ): Effect.Effect<MadeVideo, ProviderError> =>
    Effect.flatMap(CurrentRequest, ({ repeatable }) => {
      const kept = repeatable?.handle === undefined ? undefined : Option.getOrUndefined(decodeHandle(repeatable.handle))
      if (kept !== undefined) {
        return kept.model === candidate.model.id
          ? this.#followed(candidate, kept, turn.connectTimeout, repeatable)
          : Effect.fail(elsewhere(candidate))
      }
      // Once a provider has a video, its failure is the request's: another one would be charged for a second video.
      if (this.#begun !== undefined) return Effect.fail(elsewhere(candidate))
      return Effect.flatMap(this.#submitted(candidate, turn, repeatable), (handle) =>
        this.#followed(candidate, handle, turn.connectTimeout, repeatable))
    })

  readonly #submitted = Effect.fnUntraced(function*(
    this: VideoCalls,
    candidate: Candidate,
    { connectTimeout, force }: { readonly connectTimeout: number; readonly force: boolean },
    repeatable: Repeatable | undefined
  ): Effect.fn.Return<Handle, ProviderError> {
    const { model, provider } = candidate
    const { submitVideo } = provider
    if (submitVideo === undefined) return yield* failure(candidate, "this provider makes no videos")
    const keep = (handle: string) =>
      repeatable?.keep === undefined
        ? Effect.void
        : Effect.mapError(repeatable.keep(handle), () => notKept(candidate))
    yield* keep("")
    const { dropped = [], id, key } = yield* submitVideo({ request: this.#request, model, connectTimeout, force })
    this.#begun = model.id
    const handle = { model: model.id, id, ...(key === undefined ? {} : { key }), dropped }
    yield* Effect.uninterruptible(Effect.retry(keep(encodeHandle(handle)), again))
    return handle
  }.bind(this))

  readonly #followed = Effect.fnUntraced(function*(
    this: VideoCalls,
    candidate: Candidate,
    { dropped = [], id, key }: Handle,
    connectTimeout: number,
    repeatable: Repeatable | undefined
  ): Effect.fn.Return<MadeVideo, ProviderError> {
    const { model, provider } = candidate
    const { cancelVideo, fetchVideo, pollVideo } = provider
    this.#begun = model.id
    if (pollVideo === undefined || fetchVideo === undefined) {
      return yield* failure(candidate, "this provider makes no videos")
    }
    const reference: VideoReference = { id, model, connectTimeout, ...(key === undefined ? {} : { key }) }
    let failures = 0
    const look = Effect.tapError(pollVideo(reference), () => Effect.sync(() => failures++)).pipe(
      Effect.tap(() =>
        Effect.sync(() => {
          failures = 0
        })
      ),
      Effect.catchIf(
        ({ isFinal, kind }) => (kind === "transient" || kind === "quota") && isFinal !== true && failures < patience,
        () => Effect.succeed<VideoProgress>({ status: "in_progress" })
      )
    )
    const cancelled = Effect.suspend(() =>
      cancelVideo === undefined || (repeatable !== undefined && repeatable.isCancelled?.() !== true)
        ? Effect.void
        : Effect.ignore(Effect.timeoutOption(cancelVideo(reference), cancelPatience))
    )
    const done = yield* Effect.repeat(look, { schedule: looks, until: ({ status }) => status === "completed" }).pipe(
      Effect.onExit((exit) => Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? cancelled : Effect.void)
    )
    const seconds = done.seconds ?? this.#request.seconds ?? usualSeconds
    const size = done.size ?? this.#request.size
    return {
      usage: made(seconds, size),
      variants: provider.videoVariants ?? ["video"],
      open: (variant) => fetchVideo(reference, variant),
      response: {
        model: model.model,
        seconds,
        ...(size === undefined ? {} : { size }),
        files: [],
        ...(dropped.length === 0 ? {} : { droppedParams: dropped })
      }
    }
  }.bind(this))
}

/** Brings one variant of a video into the storage. */
const stored = Effect.fnUntraced(function*(
  storage: FileStorage["Service"],
  video: MadeVideo,
  variant: VideoVariant
): Effect.fn.Return<VideoFile, GatewayError> {
  const { tenant } = yield* CurrentCaller
  const file = yield* Effect.retry(
    storage.put({
      tenant,
      purpose: "video",
      content: Stream.mapError(video.open(variant), (error) => gatewayError(error))
    }),
    { ...again, while: isPassing }
  )
  return { variant, fileId: file.id, url: fileUrl(file.id), contentType: file.contentType, bytes: file.bytes }
})

/** Videos, kept in the given storage. */
export const make = (
  files: FileStorage["Service"] | undefined
): WholeOperation<VideoRequest, MadeVideo> => ({
  name: "video",
  lastsMs,
  requirements: () => ["video_output"],
  lacks: ({ submitVideo }) => submitVideo === undefined ? "video_output" : undefined,
  inputTokens: ({ prompt }) => estimateText(prompt),
  mostInputTokens: ({ prompt }) => mostOfText(prompt),
  outputTokens: () => 0,
  longestAnswer: () => 0,
  expected: (request, prices) => drawn(request, usualSeconds, prices),
  dearest: (request, prices) => ({
    read: { inputTokens: 0, outputTokens: 0 },
    whole: drawn(request, mostSeconds, prices)
  }),
  givenUp: (request) => ({ ...drawn(request, usualSeconds), estimated: true }),
  validate: () => Result.void,
  userOf: ({ user }) => user,
  shown: ({ model, prompt }) => ({ model, messages: [{ role: "user", content: [text(prompt)] }] }),
  changed: (request, [prompt = ""]) => ({ ...request, prompt }),
  calls: (request) => ({ call: new VideoCalls(request).call, wasted: () => [] }),
  accounted: (video, findings) => ({ ...video, usage: findings.usage, response: { ...video.response, ...findings } }),
  droppedOf: ({ response }) => response.droppedParams,
  finished: Effect.fnUntraced(function*(video) {
    if (files === undefined) return yield* noFiles
    const first = yield* stored(files, video, "video")
    const others = yield* Effect.forEach(
      video.variants.filter((variant) => variant !== "video"),
      // The video is there; pictures of it are welcome, and no reason to fail.
      (variant) => Effect.option(stored(files, video, variant))
    )
    return {
      ...video,
      response: { ...video.response, files: [first, ...others.flatMap(Option.toArray)] }
    }
  })
})
