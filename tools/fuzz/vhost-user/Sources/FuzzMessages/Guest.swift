// What a front-end has to hand over: memory with rings in it, and descriptors of every kind, most of which are not
// what the message wants.
import Glibc
import LinuxIO

/// One guest, made once and cleaned for each input.
final class Guest {
    static let bytes = 256 << 10
    static let guestAddress: UInt64 = 0x10_0000
    static let userAddress: UInt64 = 0x7000_0000_0000
    /// Guest memory; behind it a page that may not be touched.
    let host: UnsafeMutableRawPointer
    var fence: UnsafeMutableRawPointer { host + Self.bytes }
    let memory: Int32
    /// Memory that is cut short now and then.
    let loose: Int32
    let log: Int32
    let inflight: Int32
    let events: [Int32]
    let others: [Int32]
    private var files: [(fd: Int32, bytes: Int, isUsed: Bool)] = []

    init() {
        guard let place = mmap(nil, Self.bytes + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            place != MAP_FAILED
        else { stop("no memory") }
        memory = Self.file(Self.bytes)
        let flags = MAP_SHARED | MAP_FIXED
        guard mmap(place, Self.bytes, PROT_READ | PROT_WRITE, flags, memory, 0) == place else { stop("no memory") }
        host = place
        loose = Self.file(Self.bytes)
        log = Self.file(4096)
        inflight = Self.file(64 << 10)
        files = [(loose, Self.bytes, false), (log, 4096, false), (inflight, 64 << 10, false)]
        events = (0..<6).map { _ in
            guard let event = try? EventFD() else { stop("no eventfd") }
            let fd = dup(event.raw)
            _ = fcntl(fd, F_SETFL, O_NONBLOCK)
            return fd
        }
        var pair: [Int32] = [-1, -1]
        socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
        var pipes: [Int32] = [-1, -1]
        pipe(&pipes)
        others = pair + pipes + [open("/dev/null", O_RDWR), Self.file(1), open("/", O_RDONLY)]
    }

    /// A file without a name.
    private static func file(_ bytes: Int) -> Int32 {
        let path = "/dev/shm/qblk-fuzz-\(getpid())"
        let fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        unlink(path)
        guard fd >= 0, ftruncate(fd, off_t(bytes)) == 0 else { stop("cannot make a file in /dev/shm") }
        return fd
    }

    /// As new.
    func renew() {
        memset(host, 0, 0x20000)
        for i in files.indices where files[i].isUsed {
            files[i].isUsed = false
            ftruncate(files[i].fd, 0)
            ftruncate(files[i].fd, off_t(files[i].bytes))
        }
    }

    /// Descriptors go to the server, or something happens to them: what they name is made anew for the next input.
    func use(_ fds: [Int32]) {
        for i in files.indices where fds.contains(files[i].fd) { files[i].isUsed = true }
    }

    /// Descriptors to go with a message.
    func descriptors(_ choices: inout Choices, fitting: [Int32]) -> [Int32] {
        let how = choices.byte()
        if how < 200 { return fitting }
        let all = [memory, loose, log, inflight] + events + others
        return (0..<how % 9).map { _ in choices.of(all) }
    }

    // MARK: rings. Each has 16 KiB: descriptors, what the driver writes, what the device writes.

    static func descriptorsAt(_ ring: Int) -> Int { ring * 0x4000 }
    static func driverAt(_ ring: Int) -> Int { ring * 0x4000 + 0x1000 }
    static func deviceAt(_ ring: Int) -> Int { ring * 0x4000 + 0x2000 }
    /// Headers, data, status bytes, tables.
    static let dataAt = 0x10000

    func store<T: BitwiseCopyable>(_ value: T, at offset: Int) {
        guard offset >= 0, offset + MemoryLayout<T>.size <= Self.bytes else { return }
        (host + offset).storeBytes(of: value, as: T.self)
    }
    func load<T: BitwiseCopyable>(_: T.Type, at offset: Int) -> T { (host + offset).loadUnaligned(as: T.self) }
}
