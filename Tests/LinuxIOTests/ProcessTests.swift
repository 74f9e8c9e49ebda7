// Children must get what they were given and nothing else, and must never be mistaken.
import Glibc
import LinuxIO
import DiskTypes
import SystemPackage
import Testing

struct ProcessTests {
    @Test func endsAreToldApart() throws {
        #expect(try sh("exit 3").wait() == .exited(3))
        #expect(try sh("kill -9 $$").wait() == .killed(signal: SIGKILL))
        #expect(try sh("exit 0").wait().isSuccess)
    }

    @Test func whatCannotRunIsAnErrorHere() throws {
        #expect(throws: Errno.noSuchFileOrDirectory) { try ChildProcess.spawn("/nowhere/at/all", ["x"]) }
        #expect(throws: Errno.permissionDenied) { try ChildProcess.spawn("/etc/passwd", ["x"]) }
    }

    @Test func onlyTheGivenDescriptorsAreInherited() throws {
        let scratch = try Scratch()
        let out = OwnedFD(taking: open(try scratch.file("out"), O_RDWR | O_CLOEXEC))
        let leak = fcntl(out.raw, F_DUPFD, 100)  // on purpose without close-on-exec
        defer { close(leak) }
        let child = try ChildProcess.spawn(
            "/bin/ls", ["ls", "/proc/self/fd"],
            inherit: [.init(fd: out.raw, as: 1), .init(fd: out.raw, as: 77)], options: .nullStandardIO)
        #expect(try child.wait().isSuccess)
        let numbers = try Filesystem.read(FilePath(scratch.path + "/out")).split(separator: "\n").compactMap {
            Int32($0)
        }
        #expect(leak >= 100 && Set(numbers) == [0, 1, 2, 77, 3])  // 3: the directory that ls reads
    }

    @Test func descriptorsMayChangePlaces() throws {
        let scratch = try Scratch()
        let out = OwnedFD(taking: open(try scratch.file("out"), O_RDWR | O_CLOEXEC))
        let text = OwnedFD(taking: open(try scratch.file("text", Array("hello".utf8)), O_RDONLY | O_CLOEXEC))
        let script = "cat /proc/$$/fd/\(out.raw) > /proc/$$/fd/\(text.raw)"
        let child = try ChildProcess.spawn(
            "/bin/sh", ["sh", "-c", FileName(script)],
            inherit: [.init(fd: out.raw, as: text.raw), .init(fd: text.raw, as: out.raw)])
        #expect(try child.wait().isSuccess)
        #expect(try Filesystem.read(FilePath(scratch.path + "/out")) == "hello")
    }

    @Test func aDaemonHasItsOwnSessionAndWorksInTheRoot() throws {
        let scratch = try Scratch()
        let out = OwnedFD(taking: open(try scratch.file("out"), O_RDWR | O_CLOEXEC))
        let script = "exec >&5; pwd; cut -d' ' -f6 /proc/$$/stat; echo $$; readlink /proc/$$/fd/0; echo $WHO"
        let child = try ChildProcess.spawn(
            "/bin/sh", ["sh", "-c", FileName(script)],
            environment: ["WHO=me", "PATH=/usr/bin:/bin"], inherit: [.init(fd: out.raw, as: 5)], options: .daemon)
        #expect(try child.wait().isSuccess)
        let lines = try Filesystem.read(FilePath(scratch.path + "/out")).split(separator: "\n").map(String.init)
        #expect(lines == ["/", "\(child.pid)", "\(child.pid)", "/dev/null", "me"])
    }

    @Test func aChildStartsWithNoBlockedSignals() throws {
        let scratch = try Scratch()
        let out = OwnedFD(taking: open(try scratch.file("out"), O_RDWR | O_CLOEXEC))
        var set = sigset_t(), before = sigset_t()
        sigfillset(&set)
        pthread_sigmask(SIG_SETMASK, &set, &before)
        let child = try ChildProcess.spawn(
            "/bin/grep", ["grep", "SigBlk", "/proc/self/status"], inherit: [.init(fd: out.raw, as: 1)])
        pthread_sigmask(SIG_SETMASK, &before, nil)
        #expect(try child.wait().isSuccess)
        #expect(try Filesystem.read(FilePath(scratch.path + "/out")) == "SigBlk:\t0000000000000000\n")
    }

    @Test func aProcessIsKnownByItsStartTime() throws {
        let child = try ChildProcess.spawn("/bin/sleep", ["sleep", "60"])
        let identity = try #require(child.identity)
        #expect(identity.isAlive && ProcessIdentity.current.isAlive)
        #expect(ProcessIdentity.isAlive(pid: identity.pid, startTime: identity.startTime))
        // The same pid with another start is another process: neither alive nor signalled.
        let stranger = ProcessIdentity(pid: identity.pid, startTime: identity.startTime + 1)
        #expect(!stranger.isAlive)
        #expect(try stranger.kill(SIGKILL) == false)
        #expect(try child.poll() == nil)
        #expect(try identity.waitForEnd(milliseconds: 1) == false)
        #expect(try identity.kill(SIGTERM))
        #expect(try identity.waitForEnd(milliseconds: 10_000))
        // A zombie is dead, though its pid is still taken.
        #expect(eventually { !identity.isAlive })
        #expect(try child.wait() == .killed(signal: SIGTERM))
        #expect(try identity.kill(SIGTERM) == false)
    }

    @Test func aNameFullOfBracketsDoesNotConfuse() throws {
        let scratch = try Scratch()
        let odd = scratch.path + "/a) R 1 (b"
        #expect(symlink("/bin/sleep", odd) == 0)
        let child = try ChildProcess.spawn(FilePath(odd), [FileName(odd), "60"])
        #expect(child.identity?.isAlive == true)
        try child.kill(SIGKILL)
        _ = try child.wait()
    }

    @Test func descriptorsTravelOverSockets() throws {
        let scratch = try Scratch()
        var ends: [Int32] = [-1, -1]
        #expect(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
        let one = OwnedFD(taking: ends[0]), two = OwnedFD(taking: ends[1])
        let file = OwnedFD(taking: open(try scratch.file("a", [7]), O_RDONLY | O_CLOEXEC))
        try DescriptorMessage.send([1, 2], descriptors: [file.raw, file.raw], over: one.raw)
        let got = try DescriptorMessage.receive(limit: 16, descriptors: 2, over: two.raw)
        #expect(got.bytes == [1, 2] && got.descriptors.count == 2)
        var byte: UInt8 = 0
        #expect(read(got.descriptors[1], &byte, 1) == 1 && byte == 7)
        #expect(fcntl(got.descriptors[0], F_GETFD) & FD_CLOEXEC != 0)
        for fd in got.descriptors { close(fd) }
        // More than agreed: refused, not kept.
        try DescriptorMessage.send([1], descriptors: [file.raw, file.raw], over: one.raw)
        #expect(throws: Errno.self) { try DescriptorMessage.receive(limit: 16, descriptors: 1, over: two.raw) }
        try one.close()
        #expect(try DescriptorMessage.receive(limit: 16, descriptors: 1, over: two.raw).bytes == [])
    }
}

private func sh(_ script: String) throws -> ChildProcess {
    try ChildProcess.spawn("/bin/sh", ["sh", "-c", FileName(script)])
}
