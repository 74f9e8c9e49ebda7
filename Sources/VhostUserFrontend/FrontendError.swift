// The ways in which a session with a back-end can fail. Tests compare them, and `bench` prints them as one line.
import LinuxIO
public import SystemPackage
public import VhostUserWire
import Glibc

/// What can go wrong between a front-end and its back-end.
public enum FrontendError: Error, Equatable, Sendable {
    /// The back-end closed the connection, in the middle of this request where one was under way.
    case disconnected(FrontendRequest?)
    /// No answer within the time-out.
    case silent(FrontendRequest)
    /// A system call failed; the text says what was to be done.
    case system(String, Errno)
    /// An answer breaks the protocol.
    case wire(WireError)
    /// An answer to another request, or without the reply bit.
    case wrongAnswer(to: FrontendRequest, code: UInt32, flags: UInt32)
    /// The back-end acknowledged with a number other than 0.
    case refused(FrontendRequest, UInt64)
    /// The back-end does not offer what was asked for.
    case lacks(String)
    /// An answer contradicts what was asked; the text is what the back-end says.
    case nonsense(String)
    /// The memory of the front-end or its ring has no more room.
    case memoryFull
    /// A request was not answered within the time-out.
    case requestLost(queue: Int)
}

extension FrontendError: CustomStringConvertible {
    /// One sentence, without an end stop.
    public var description: String {
        switch self {
        case .disconnected(let request):
            "the back-end closed the connection" + (request.map { " on \($0)" } ?? "")
        case .silent(let request): "the back-end does not answer \(request)"
        case .system(let what, let error): "\(what): \(errorText(error.rawValue))"
        case .wire(let error): "the back-end breaks the protocol: \(error)"
        case .wrongAnswer(let request, let code, let flags):
            "the back-end answers \(request) with message \(code), flags 0x\(String(flags, radix: 16))"
        case .refused(let request, let value): "the back-end refuses \(request) (\(value))"
        case .lacks(let what): "the back-end does not offer \(what)"
        case .nonsense(let what): "the back-end says \(what)"
        case .memoryFull: "the memory shared with the back-end is full"
        case .requestLost(let queue): "a request in queue \(queue) was not answered"
        }
    }
}
