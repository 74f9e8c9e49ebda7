// Sequences of vhost-user messages, sensible and not, with descriptors of every kind, to a session of a server in
// this process; between them a driver writes whatever into the rings. Whatever comes, the server answers in the
// protocol's words or parts, keeps no descriptor, and serves the next front-end.
import Glibc
import LinuxIO
import VhostUserWire

/// With QBLK_CANARY set there is a bug to be found.
let canary = getenv("QBLK_CANARY").map { String(cString: $0) }

func stop(_ what: String) -> Never {
    _ = (what + "\n").withCString { write(2, $0, strlen($0)) }
    abort()
}

/// The planted bug: one byte too far. Nothing here stops it; the rig must.
@inline(never) func plant(_ canary: String) {
    _ = "the canary\n".withCString { write(2, $0, strlen($0)) }
    let heap = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 16)
    let outside = canary == "heap" ? heap + 64 : guest.fence
    outside.storeBytes(of: outside.load(as: UInt8.self) &+ 1, as: UInt8.self)
    heap.deallocate()
}

/// The bytes of an input, taken from the front; zeros behind its end.
struct Choices {
    private let bytes: UnsafeBufferPointer<UInt8>
    private var at = 0
    init(_ bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }
    var isOver: Bool { at >= bytes.count }
    mutating func byte() -> Int {
        defer { at += 1 }
        return at < bytes.count ? Int(bytes[at]) : 0
    }
    mutating func word() -> UInt64 { (0..<8).reduce(0) { word, i in word | UInt64(byte()) << UInt64(8 * i) } }
    mutating func of<T>(_ list: [T]) -> T { list[byte() % list.count] }
    /// A number that is often one of the edges.
    mutating func number() -> UInt64 {
        let edges: [UInt64] = [0, 1, 2, 4095, 4096, 32768, 65535, 1 << 31, 1 << 32, 1 << 63, .max, .max - 4095]
        let which = byte()
        return which < 200 ? UInt64(which) << UInt64(which % 3 * 4) : which < 240 ? of(edges) : word()
    }
}

nonisolated(unsafe) let guest = Guest()
nonisolated(unsafe) let stage = Stage()
nonisolated(unsafe) var inputs = 0

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    var choices = Choices(UnsafeBufferPointer(start: data, count: count))
    guest.renew()
    var conversation = Conversation(stage.connect())
    while !choices.isOver, conversation.isOpen { conversation.step(&choices) }
    conversation.finish()
    inputs += 1
    if inputs % 64 == 0 { stage.check() }
    return 0
}
