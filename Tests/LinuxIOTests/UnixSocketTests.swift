// A server's socket is found again after a kill, never stolen from a living one, and never takes the place of an
// ordinary file.
import DiskTypes
import Glibc
import LinuxIO
import struct TestKit.TestFailure
import Testing
import SystemPackage

struct UnixSocketTests {
    @Test func bytesAndDescriptorsArrive() throws {
        let folder = try Scratch()
        let listener = try UnixSocket.listen("\(folder.path)/s")
        let client = try UnixSocket.connect("\(folder.path)/s")
        guard let server = try listener.accept(milliseconds: 20_000) else { throw TestFailure("no connection came") }
        try DescriptorMessage.send([1, 2, 3], descriptors: [client.raw], over: client.raw)
        let came = try DescriptorMessage.receive(limit: 10, descriptors: 1, over: server.raw)
        #expect(came.bytes == [1, 2, 3] && came.descriptors.count == 1)
        for fd in came.descriptors { close(fd) }
    }
    @Test func thePeerIsKnown() throws {
        let folder = try Scratch()
        let listener = try UnixSocket.listen("\(folder.path)/s")
        let client = try UnixSocket.connect("\(folder.path)/s")
        let peer = try client.peer()
        #expect(peer.pid == getpid() && peer.user == geteuid())
        _ = try listener.accept(milliseconds: 0)
    }
    @Test func aListenerTakesItsFileAway() throws {
        let folder = try Scratch()
        let path = "\(folder.path)/s"
        do {
            let listener = try UnixSocket.listen(FilePath(path))
            #expect(exists(path) && listener.path == FilePath(path))
        }
        #expect(!exists(path))
    }
    @Test func aDeadServersSocketIsReplaced() throws {
        let folder = try Scratch()
        let path = "\(folder.path)/s"
        try leaveSocket(at: path)
        #expect(exists(path))
        #expect(refusal { _ = try UnixSocket.connect(FilePath(path)) }.contains("its server is gone"))
        let listener = try UnixSocket.listen(FilePath(path))
        let client = try UnixSocket.connect(FilePath(path))
        #expect(try came(listener, within: 20_000))
        client.shutDown()
    }
    @Test func aLivingServersSocketIsNot() throws {
        let folder = try Scratch()
        let path = "\(folder.path)/s"
        let listener = try UnixSocket.listen(FilePath(path))
        #expect(refusal { _ = try UnixSocket.listen(FilePath(path)) }.contains("another server"))
        let client = try UnixSocket.connect(FilePath(path))
        // Its probe was a connection, too.
        #expect(try came(listener, within: 20_000))
        #expect(try came(listener, within: 20_000))
        client.shutDown()
    }
    @Test func aLivingServerWhoseBacklogIsFullIsNotReplaced() throws {
        let folder = try Scratch()
        let path = "\(folder.path)/s"
        let listener = try UnixSocket.listen(FilePath(path), backlog: 0)
        let waiting = try UnixSocket.connect(FilePath(path))
        #expect(refusal { _ = try UnixSocket.listen(FilePath(path)) }.contains("another server"))
        #expect(Filesystem.exists(listener.path) && waiting.raw >= 0)
    }
    @Test func aFileIsLeftAlone() throws {
        let folder = try Scratch()
        let path = try folder.file("s", [1, 2, 3])
        #expect(refusal { _ = try UnixSocket.listen(FilePath(path)) }.contains("no socket"))
        #expect(exists(path))
    }
    @Test func aListenerLeavesItsSuccessorsFile() throws {
        let folder = try Scratch()
        let path = "\(folder.path)/s"
        let successor: UnixListener
        do {
            let first = try UnixSocket.listen(FilePath(path))
            try Filesystem.removeFile(first.path)
            successor = try UnixSocket.listen(FilePath(path))
        }
        #expect(Filesystem.exists(successor.path))
    }
    @Test func pathsAsLongAsAnAddressWorkAndNoLonger() throws {
        let folder = try Scratch()
        let room = 107 - folder.path.utf8.count - 1
        let listener = try UnixSocket.listen(FilePath("\(folder.path)/" + String(repeating: "s", count: room)))
        #expect(try UnixSocket.connect(listener.path).raw >= 0)
        let long = "\(folder.path)/" + String(repeating: "s", count: room + 1)
        #expect(refusal { _ = try UnixSocket.listen(FilePath(long)) }.contains("107 bytes"))
        #expect(refusal { _ = try UnixSocket.connect(FilePath(long)) }.contains("107 bytes"))
        #expect(refusal { _ = try UnixSocket.connect("") }.contains("107 bytes"))
    }
    @Test func nobodyConnectsIsNil() throws {
        let folder = try Scratch()
        let listener = try UnixSocket.listen("\(folder.path)/s")
        #expect(try !came(listener, within: 10))
    }
    @Test func aPairSeesTheEnd() throws {
        let pair = try UnixSocket.Pair()
        #expect(try !pair.far.waitReadable(milliseconds: 0))
        pair.near.shutDown()
        #expect(try pair.far.waitReadable(milliseconds: 20_000))
        #expect(try DescriptorMessage.receive(limit: 8, descriptors: 0, over: pair.far.raw).bytes == [])
    }
    @Test func sharedMemoryCannotShrink() throws {
        let memory = try SharedMemory("qblk-test", count: 8192)
        memory.pointer.storeBytes(of: 7, as: UInt8.self)
        let other = try Mapping(fd: memory.fd, count: 8192, writable: false)
        #expect(other.pointer.load(as: UInt8.self) == 7)
        #expect(ftruncate(memory.fd, 4096) != 0)
    }

    private func came(_ listener: borrowing UnixListener, within milliseconds: Int32) throws -> Bool {
        switch try listener.accept(milliseconds: milliseconds) {
        case .some: true
        case .none: false
        }
    }

    private func refusal(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "nothing was refused"
        } catch { return "\(error)" }
    }

    /// What a killed server leaves behind.
    private func leaveSocket(at path: String) throws {
        let fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(fd) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else { throw TestFailure("cannot bind: \(errorText(errno))") }
    }
}
