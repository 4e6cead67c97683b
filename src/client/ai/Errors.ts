/** The gateway's errors as those of `effect/ai`, whose retries and messages depend on their kind. */
import { DateTime, Duration } from "effect"
import { AiError } from "effect/ai"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import type { ConnectionFailed } from "../GatewayClient.ts"

const reasonOf = (error: GatewayError): AiError.AiErrorReason => {
  const { reason } = error
  const description = error.message
  switch (reason._tag) {
    case "RateLimited":
      return new AiError.RateLimitError({ retryAfter: Duration.millis(reason.retryAfterMs) })
    case "BudgetExceeded":
      return new AiError.QuotaExhaustedError(
        reason.resetsAt === undefined ? {} : { resetAt: DateTime.makeUnsafe(reason.resetsAt) }
      )
    case "Unauthorized":
      return new AiError.AuthenticationError({ kind: "InvalidKey", description })
    case "Forbidden":
    case "ModelNotApproved":
      return new AiError.AuthenticationError({ kind: "InsufficientPermissions", description })
    case "RequestBlocked":
    case "ResponseBlocked":
      return new AiError.ContentPolicyError({ description })
    case "ProviderFailed":
      switch (reason.kind) {
        case "caller":
        case "contextLength":
          return new AiError.InvalidRequestError({
            description,
            ...(reason.field === undefined ? {} : { parameter: reason.field })
          })
        case "contentPolicy":
          return new AiError.ContentPolicyError({ description })
        case "quota":
          return new AiError.RateLimitError(
            reason.retryAfterMs === undefined ? {} : { retryAfter: Duration.millis(reason.retryAfterMs) }
          )
        default:
          return new AiError.InternalProviderError({ description })
      }
    case "ProviderTimeout":
    case "StoreUnavailable":
    case "Overloaded":
    case "InternalError":
      return new AiError.InternalProviderError({ description })
    default:
      return new AiError.InvalidRequestError({
        description,
        ...(error.field === undefined ? {} : { parameter: error.field })
      })
  }
}

/** Makes the error of a method of a model. The gateway's own stands in the description, with its words. */
export const aiError = (module: string, method: string) => (error: GatewayError | ConnectionFailed): AiError.AiError =>
  AiError.make({
    module,
    method,
    reason: error._tag === "GatewayError"
      ? reasonOf(error)
      : new AiError.NetworkError({
        reason: "TransportError",
        method: "POST",
        url: "",
        description: error.message
      })
  })
