/** Images for the model: as data URLs, made small enough, for a message may hold 200,000 characters of them. */

const MAX_CHARACTERS = 200_000;
export const MAX_IMAGES = 8;
const AS_THEY_ARE = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const SIDES = [1568, 1024, 768, 512, 320, 200]; // px
const QUALITIES = [0.85, 0.6];

/** The `media` of a message with these files. Throws an Error whose message is for the user. */
export async function mediaOf(files) {
  const room = Math.floor(MAX_CHARACTERS / Math.max(files.length, 1));
  return Promise.all(files.map(async (file) => ({ type: "image", url: await dataUrl(file, room) })));
}

async function dataUrl(file, room) {
  if (AS_THEY_ARE.includes(file.type) && (file.size * 4) / 3 + 50 < room) return asItIs(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not an image that can be read here.`);
  }
  for (const side of SIDES) {
    for (const quality of QUALITIES) {
      const url = drawn(bitmap, side, quality);
      if (url.length <= room) return url;
    }
  }
  throw new Error(`“${file.name}” cannot be made small enough.`);
}

function drawn(bitmap, side, quality) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG knows nothing transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}

function asItIs(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`“${file.name}” cannot be read.`));
    reader.readAsDataURL(file);
  });
}
