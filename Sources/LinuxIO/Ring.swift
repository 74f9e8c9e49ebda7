// Stand-in until the real ring is merged: the contract and nothing behind it.
public import CQblk
internal import Glibc
public import SystemPackage
public final class Ring {
    public init(entries: UInt32) throws(Errno) { throw .noFunction }
    public func prepareRead(fd: Int32, buffer: UnsafeMutableRawPointer, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0) -> Bool { false }
    public func prepareReadv(fd: Int32, iovecs: UnsafePointer<iovec>, count: UInt32, offset: UInt64, userData: UInt64, flags: UInt8 = 0) -> Bool { false }
    @discardableResult public func submit() -> Int32 { 0 }
    @discardableResult public func submitAndWait(_ n: UInt32) -> Int32 { 0 }
    @discardableResult public func drain(_ body: (_ userData: UInt64, _ result: Int32) -> Void) -> Int { 0 }
}
