/** docs/PROVIDERS.md says what the code does. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readFileSync } from "node:fs"
import path from "node:path"
import { root } from "./Examples.ts"
import { providersPage } from "./ProvidersPage.ts"

describe("docs/PROVIDERS.md", () => {
  it.effect("is what `node test/docs/write.ts` writes", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        readFileSync(path.join(root, "docs/PROVIDERS.md"), "utf8"),
        yield* providersPage,
        "the page is stale: run node test/docs/write.ts and read the difference"
      )
    }))
})
