// Ten digits as strokes, for those who can't or don't want to draw. Points (x, y), from 0 to 1.

function arc(x, y, width, height, from, to) {
  const steps = Math.max(6, Math.round(Math.abs(to - from) / 20));
  return Array.from({ length: steps + 1 }, (_, step) => {
    const angle = ((from + ((to - from) * step) / steps) * Math.PI) / 180;
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });
}

const eight = Array.from({ length: 29 }, (_, step) => {
  const turn = (step / 28) * 2 * Math.PI;
  return [0.5 - 0.17 * Math.sin(2 * turn), 0.5 - 0.31 * Math.cos(turn)];
});

export const EXAMPLES = [
  [arc(0.5, 0.5, 0.21, 0.32, -80, -440)],
  [
    [
      [0.53, 0.18],
      [0.51, 0.4],
      [0.49, 0.62],
      [0.47, 0.83],
    ],
  ],
  [[...arc(0.5, 0.36, 0.18, 0.18, -170, 25), [0.55, 0.58], [0.32, 0.8], [0.5, 0.79], [0.72, 0.8]]],
  [[...arc(0.47, 0.35, 0.17, 0.16, -150, 80), ...arc(0.47, 0.66, 0.19, 0.17, -85, 150)]],
  [
    [
      [0.34, 0.2],
      [0.31, 0.38],
      [0.31, 0.5],
      [0.45, 0.52],
      [0.66, 0.49],
    ],
    [
      [0.66, 0.18],
      [0.65, 0.5],
      [0.63, 0.84],
    ],
  ],
  [
    [[0.38, 0.2], [0.36, 0.34], [0.35, 0.46], ...arc(0.47, 0.63, 0.2, 0.19, -120, 140)],
    [
      [0.38, 0.2],
      [0.52, 0.2],
      [0.69, 0.19],
    ],
  ],
  [[[0.6, 0.18], [0.47, 0.3], [0.37, 0.48], ...arc(0.49, 0.66, 0.15, 0.16, -170, -520)]],
  [
    [
      [0.31, 0.24],
      [0.5, 0.23],
      [0.69, 0.21],
      [0.62, 0.37],
      [0.53, 0.58],
      [0.47, 0.82],
    ],
  ],
  [eight],
  [[...arc(0.48, 0.36, 0.16, 0.16, -10, -360), [0.63, 0.5], [0.6, 0.66], [0.56, 0.84]]],
];
