-- What a calibrated ranker said of each item shown: the probability that the user's next goal event is on it. Empty where it said nothing.
ALTER TABLE decisions ADD COLUMN probabilities double precision[] NOT NULL DEFAULT '{}';
