// What a page gives to a WebSocket, and one part of the sound to the next.

/**
 * @param {WebSocket} socket nothing is given to one that is not open
 * @param {string | ArrayBuffer} data
 */
export function deliver(socket, data) {
    if (socket.readyState === WebSocket.OPEN) Reflect.apply(WebSocket.prototype.send, socket, [data]);
}

/**
 * @param {AudioNode} source
 * @param {AudioNode} target
 */
export function feed(source, target) {
    Reflect.apply(AudioNode.prototype.connect, source, [target]);
}
