/** The page on resilience tells the table that the gateway goes by. */
import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { failurePolicy } from "../../src/gateway/FailurePolicy.ts"

describe("docs/RESILIENCE.md", () => {
  it("shows what follows on every failure, as the code has it", () => {
    const page = readFileSync(new URL("../../docs/RESILIENCE.md", import.meta.url), "utf8")
    const rows = Array.from(
      page.matchAll(/^\| `(\w+)` \| (retry|next|final) \|$/gm),
      ([, kind, action]) => [kind, action]
    )
    assert.deepStrictEqual(rows, Object.entries(failurePolicy))
  })
})
