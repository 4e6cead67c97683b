/** Tables as CSV (RFC 4180), safe to open in a spreadsheet. */

/** What a cell holds; `null` is an empty cell, an empty text a quoted one. */
export type Cell = string | number | null

/**
 * What makes a spreadsheet take a text for a formula, and the apostrophe that keeps it from that:
 * https://owasp.org/www-community/attacks/CSV_Injection
 */
const formula = /^[=+\-@\t\r']/

const needsQuotes = /[",\r\n]/

const written = (cell: Cell): string => {
  if (cell === null) return ""
  if (typeof cell === "number") return String(cell)
  const text = formula.test(cell) ? `'${cell}` : cell
  return text === "" || needsQuotes.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text
}

/**
 * Writes a line with its end. A text that begins with `=`, `+`, `-`, `@`, a tab, a carriage return or an apostrophe gets
 * an apostrophe in front; whoever takes one apostrophe off such a beginning has the text back.
 */
export const csvLine = (cells: ReadonlyArray<Cell>): string => `${cells.map(written).join(",")}\r\n`
