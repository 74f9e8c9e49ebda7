// Short options as getopt reads them, and as scripts for qemu-img write them: flags and a value joined in one word
// (-fqcow2, -cpOqcow2, -ocluster_size=4k). ArgumentParser takes them one by one.

enum ShortOptions {
    /// The short options of each command that take a value. All others are flags.
    private static let valued: [String: Set<Character>] = [
        "map": ["f"], "table": ["f"], "doctor": ["f"], "serve": ["f"], "attach": ["f"], "bench": ["f"],
        "info": ["f", "t"], "extents": ["f", "s", "l"], "check": ["f", "r", "T"], "compare": ["f", "F", "T", "m"],
        "convert": ["f", "O", "l", "S", "m", "t", "T", "o", "B", "b", "F", "r"],
        "create": ["f", "o", "b", "F", "B"], "resize": ["f"],
    ]

    /// The same arguments with every joined word of short options split. What follows `--`, and the value of an option,
    /// stay as they are.
    static func separated(_ arguments: [String]) -> [String] {
        guard let verb = arguments.first, let valued = valued[verb] else { return arguments }
        var result = [verb]
        var isValue = false
        for (index, argument) in arguments.enumerated().dropFirst() {
            if argument == "--" { return result + arguments[index...] }
            guard !isValue, argument.hasPrefix("-"), !argument.hasPrefix("--"), argument.count > 1 else {
                result.append(argument)
                isValue = false
                continue
            }
            var letters = argument.dropFirst()
            while let letter = letters.popFirst() {
                result.append("-\(letter)")
                guard valued.contains(letter) else { continue }
                isValue = letters.isEmpty
                if !isValue { result.append(String(letters)) }
                break
            }
        }
        return result
    }
}
