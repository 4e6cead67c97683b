/**
 * Videos on OpenAI's wire, upstream (https://platform.openai.com/docs/api-reference/videos): `POST /videos`, `GET /videos/{id}`
 * until `status` is `completed` or `failed`, `GET /videos/{id}/content?variant=`, `DELETE /videos/{id}`. `seconds` is a text.
 */
import { Result } from "effect"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import type { Failure, SubmittedVideo, VideoCall, VideoProgress } from "../../sdk/Provider.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { bounded, filled, finite, isJson, object, string } from "../Json.ts"
import { encodedBody } from "./OpenAiBody.ts"
import { makeReport } from "../Report.ts"
import { protocolFailure } from "./OpenAiError.ts"

/** The request of a video. */
export const encodeRequest = ({ model, request }: VideoCall): Result.Result<EncodedRequest, ValidationError> => {
  const report = makeReport()
  const body: Record<string, unknown> = { model: model.model, prompt: request.prompt }
  if (request.seconds !== undefined) body["seconds"] = String(request.seconds)
  if (request.size !== undefined) body["size"] = request.size
  if (request.user !== undefined) report.drop("user")
  return encodedBody(body, request, report)
}

const secondsOf = (json: Json): number | undefined => {
  const seconds = Number(json["seconds"] ?? Number.NaN)
  return Number.isFinite(seconds) && seconds > 0 ? seconds : undefined
}

/** Why a video was not made. A filter's no is told as such; all else is the provider's own failure. */
const failed = (json: Json): Failure => {
  const error = object(json["error"])
  const code = string(error?.["code"])
  const message = bounded(filled(error?.["message"]) ?? "the provider did not make the video, and does not say why")
  const isRefused = code !== undefined && /moderation|policy|safety/.test(code)
  return {
    kind: isRefused ? "contentPolicy" : "transient",
    isFinal: true,
    message,
    ...(code === undefined ? {} : { code })
  }
}

/** How a video stands. A status that nobody knows is work that goes on. */
export const decodeProgress = (json: unknown): Result.Result<VideoProgress, Failure> => {
  if (!isJson(json) || typeof json["status"] !== "string") {
    return Result.fail(protocolFailure("the provider's answer is no video"))
  }
  const { status } = json
  if (status === "failed" || status === "cancelled" || status === "expired") return Result.fail(failed(json))
  const progress = finite(json["progress"])
  const seconds = secondsOf(json)
  const size = filled(json["size"])
  return Result.succeed({
    status: status === "completed" ? "completed" : status === "queued" ? "queued" : "in_progress",
    ...(progress === undefined ? {} : { progress }),
    ...(seconds === undefined ? {} : { seconds }),
    ...(size === undefined ? {} : { size })
  })
}

/** A video that was submitted; one without an id could never be asked after. */
export const decodeSubmitted = (json: unknown): Result.Result<SubmittedVideo, Failure> => {
  const id = isJson(json) ? filled(json["id"]) : undefined
  return id === undefined || id.length > 512
    ? Result.fail(protocolFailure("the provider's answer has no id of a video"))
    : Result.succeed({ id })
}
