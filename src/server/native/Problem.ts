/** Errors as RFC 9457 problem details. */
import type { Problem } from "../../sdk/GatewayApi.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"

/** What each reason adds to the problem, beside what every problem has. */
const contextOf = ({ reason }: GatewayError): Readonly<Record<string, unknown>> | undefined => {
  switch (reason._tag) {
    case "CapabilityNotSupported":
      return { capability: reason.capability, model: reason.model, models: reason.models }
    case "ModelNotFound":
      return { model: reason.model, ...(reason.candidates === undefined ? {} : { candidates: reason.candidates }) }
    case "ModelNotApproved":
    case "ModelDeprecated":
      return { model: reason.model }
    case "SchemaNotFound":
      return { ids: reason.ids }
    case "InvalidSchemaId":
      return { id: reason.id }
    case "ProviderFailed":
      return {
        provider: reason.provider,
        kind: reason.kind,
        ...(reason.upstreamStatus === undefined ? {} : { upstream_status: reason.upstreamStatus }),
        ...(reason.upstreamCode === undefined ? {} : { upstream_code: reason.upstreamCode })
      }
    case "ProviderTimeout":
      return {
        provider: reason.provider,
        phase: reason.phase,
        limit_ms: reason.limitMs,
        ...(reason.attempt === undefined ? {} : { attempt: reason.attempt }),
        ...(reason.model === undefined ? {} : { model: reason.model })
      }
    case "RequestBlocked":
    case "ResponseBlocked":
      return { interceptor: reason.interceptor }
    case "BudgetExceeded":
      return {
        budget: reason.budget,
        ...(reason.resetsAt === undefined ? {} : { resets_at: new Date(reason.resetsAt).toISOString() })
      }
    case "RateLimited":
      return { retry_after_ms: Math.ceil(reason.retryAfterMs) }
    case "PayloadTooLarge":
      return reason.maxBytes === undefined ? undefined : { max_bytes: reason.maxBytes }
    default:
      return undefined
  }
}

const titleOf = (code: string): string => {
  const words = code.replaceAll("_", " ")
  return words.charAt(0).toUpperCase() + words.slice(1)
}

/** The problem details of an error. */
export const problemOf = (error: GatewayError, requestId: string): Problem => {
  const context = contextOf(error)
  const issues = error.reason._tag === "ValidationError" ? error.reason.issues : undefined
  return {
    // RFC 9457 section 3.1.1 asks for a URI that names the kind of problem; it need not lead anywhere.
    type: `urn:llm-gateway:error:${error.code}`,
    title: titleOf(error.code),
    status: error.status,
    detail: error.message,
    code: error.code,
    request_id: requestId,
    ...(error.field === undefined ? {} : { field: error.field }),
    ...(issues === undefined ? {} : { issues }),
    ...(context === undefined ? {} : { context })
  }
}
