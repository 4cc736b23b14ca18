// The published SDK is written for bundlers: its imports have no file endings and its package.json names no module type.
export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context)
  } catch (error) {
    const from = specifier.replace(/^\.\.$/, '../index').replace(/^\.$/, './index')
    if (from.startsWith('.')) return next(from + '.js', context)
    throw error
  }
}

export async function load(url, context, next) {
  if (url.includes('/wukongimjssdk/lib/')) return next(url, { ...context, format: 'module' })
  return next(url, context)
}
