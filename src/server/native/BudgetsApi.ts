/** The budgets that hold for the caller, and how they stand. */
import { Effect, Schema } from "effect"
import type { Balance } from "../../sdk/Budgets.ts"
import { budgetInfo } from "../../gateway/InProcess.ts"
import { BudgetList } from "../../sdk/GatewayApi.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { type Door, json, visit } from "../Door.ts"

const encodeBudgets = Schema.encodeSync(BudgetList)

/** Lists budgets; `balances` gives those of the current caller. */
export const list = <R>(door: Door, balances: Effect.Effect<ReadonlyArray<Balance>, GatewayError, R>) =>
  visit(
    door,
    Effect.fnUntraced(function*({ requestId }) {
      const budgets = (yield* balances).map(budgetInfo)
      return json(encodeBudgets({ budgets }), { "x-request-id": requestId })
    })
  )
