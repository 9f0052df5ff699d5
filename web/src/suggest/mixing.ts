/** How much the law of a model is sharpened in superposed drafts, by the number of drafts and of prompt tokens. */
export interface Mixing {
  readonly temperature: number;
  readonly numKept: number;
}

interface Setting {
  readonly from: number;
  readonly alpha: number;
  readonly temperature: number;
  readonly numKept: number;
}

const BY_DRAFTS: readonly Setting[] = [
  { from: 2, alpha: 0.62, temperature: 0.06, numKept: 6 },
  { from: 3, alpha: 0.54, temperature: 0.06, numKept: 9 },
  { from: 4, alpha: 0.52, temperature: 0.06, numKept: 12 },
  { from: 5, alpha: 0.6, temperature: 0.06, numKept: 15 },
  { from: 6, alpha: 0.52, temperature: 0.06, numKept: 18 },
  { from: 10, alpha: 0.54, temperature: 0.12, numKept: 30 },
];
/** For three drafts, by the number of tokens in the prompt. */
const BY_PROMPT: readonly Setting[] = [
  { from: 5, alpha: 0.34, temperature: 0.12, numKept: 15 },
  { from: 15, alpha: 0.54, temperature: 0.06, numKept: 9 },
  { from: 25, alpha: 0.5, temperature: 0.12, numKept: 15 },
  { from: 40, alpha: 0.55, temperature: 0.1, numKept: 15 },
];

/**
 * Return the published setting, for a model without n-grams: its law counts as much as it does with them.
 *
 * Source: Superposed Decoding (Shen et al., 2024).
 */
export function mixingFor(numDrafts: number, numPromptTokens: number): Mixing {
  const [table, number] = numDrafts === 3 ? [BY_PROMPT, numPromptTokens] : [BY_DRAFTS, numDrafts];
  const setting = table.findLast((each) => each.from <= number) ?? table[0]!;
  const numKept = Math.max(setting.numKept, 3 * numDrafts);
  return { temperature: setting.temperature / (1 - setting.alpha), numKept };
}
