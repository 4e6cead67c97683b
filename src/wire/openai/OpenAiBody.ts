/** The end of writing a request that has extensions at its top alone: what all such requests of OpenAI's wire do alike. */
import { Result } from "effect"
import type { Extensions } from "../../sdk/Content.ts"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import type { EncodedRequest } from "../Codec.ts"
import { reportForeignFields } from "../ForeignExtensions.ts"
import type { Report } from "../Report.ts"
import { merge, ownExtensions, wire } from "./OpenAiExtensions.ts"

/** The body with the request's own extensions, and what it leaves out; or what the report found to be wrong. */
export const encodedBody = (
  body: Record<string, unknown>,
  request: { readonly extensions?: Extensions },
  report: Report
): Result.Result<EncodedRequest, ValidationError> => {
  reportForeignFields(request, wire, report)
  const error = report.error()
  return error === undefined
    ? Result.succeed({ body: merge(body, ownExtensions(request)), dropped: report.dropped() })
    : Result.fail(error)
}
